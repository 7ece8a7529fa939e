/**
 * netns.ts - named network namespaces, and doing something inside one
 *
 * Theory of operation
 * A named namespace is a file below /run/netns on which ip(8) has mounted it. `inNamespace()` moves the
 * calling thread there, runs a synchronous function, and moves the thread back; what the function opened
 * (TUN, netlink socket) stays bound to the namespace. Other threads of the process are not moved.
 *
 * A mount is seen by the mount namespace it was made in and those below. Under `ip netns exec`, which
 * makes one of its own, a namespace we make is therefore known to our children only, and the file is
 * an empty one to everybody else. Such an empty file, left by a process that is gone, is replaced.
 *
 * Sources: ip-netns(8), network_namespaces(7), setns(2), mount_namespaces(7).
 */

import { mustRun } from "./command.ts";
import {
  check,
  closeAll,
  cString,
  Errno,
  errno,
  libc,
  O_CLOEXEC,
  O_RDONLY,
  SystemError,
} from "./libc.ts";

const CLONE_NEWNET = 0x40000000;

/**
 * Runs `action` in the namespace called `name`.
 *
 * @param action Must be synchronous: until it returns, everything this thread does happens there.
 * @returns What `action` returns.
 * @throws {SystemError} ENOENT when there is no such namespace, EINVAL when its file is an empty one.
 */
export function inNamespace<T>(name: string, action: () => T): T {
  const own = openNamespace("/proc/thread-self/ns/net");
  let other = -1;
  try {
    other = openNamespace(`/run/netns/${name}`);
    check(libc.setns(other, CLONE_NEWNET), "setns", `enter network namespace ${name}`);
    try {
      return action();
    } finally {
      check(libc.setns(own, CLONE_NEWNET), "setns", `come back from network namespace ${name}`);
    }
  } finally {
    closeAll(own, other);
  }
}

/** Opens a namespace by the path of its file. */
function openNamespace(path: string): number {
  const fd = libc.open(cString(path), O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) throw new SystemError("open", errno(), `open network namespace ${path}`);
  return fd;
}

/**
 * Sees to it that there is a namespace called `name`.
 *
 * @returns Whether it had to be made.
 * @throws {RangeError} When the name cannot be one of a file.
 * @throws {Error} When it cannot be made.
 */
export async function ensureNamespace(name: string): Promise<boolean> {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/.test(name)) {
    throw new RangeError(
      `Cannot use "${name}" as network namespace: allowed are 1 to 63 letters, digits, "_", "." and "-"`,
    );
  }
  try {
    inNamespace(name, () => {});
    return false;
  } catch (error) {
    const reason = error instanceof SystemError ? error.errno : 0;
    if (reason === Errno.EINVAL) await mustRun("ip", "netns", "delete", name);
    else if (reason !== Errno.ENOENT) throw error;
  }
  await mustRun("ip", "netns", "add", name);
  return true;
}
