/**
 * notify.ts - tell the service manager how far we are
 *
 * Theory of operation
 * systemd sets NOTIFY_SOCKET for a unit of `Type=notify` and expects one datagram, "READY=1", at that
 * Unix socket; a path that begins with "@" is an abstract name. Without the variable nothing is sent.
 * With `WatchdogSec=` it sets WATCHDOG_USEC too, and kills a unit that does not say "WATCHDOG=1" that often.
 *
 * Sources: sd_notify(3), sd_watchdog_enabled(3), unix(7).
 */

import { check, closeAll, libc, Memory } from "../io/libc.ts";
import { AF_UNIX, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK } from "../io/socket.ts";

/** Octets of `sun_path`. */
const PATH_LENGTH_MAX = 108;
/** Octets of the longest state. */
const STATE_LENGTH_MAX = 64;

/** `struct sockaddr_un`. */
const address = new Memory(2 + PATH_LENGTH_MAX);
const message = new Memory(STATE_LENGTH_MAX);

/** What the service manager can be told. */
export type ManagerState = "READY=1" | "STOPPING=1" | "WATCHDOG=1";

/**
 * How often the service manager wants to hear "WATCHDOG=1", milliseconds.
 *
 * @param usec WATCHDOG_USEC of the environment if not given.
 * @returns Null when there is no watchdog.
 */
export function watchdogIntervalMs(usec = Deno.env.get("WATCHDOG_USEC")): number | null {
  if (usec === undefined || !/^[1-9]\d{0,14}$/.test(usec)) return null;
  // Half of it, as sd_watchdog_enabled(3) advises.
  return Number(usec) / 2000;
}

/**
 * Sends a state to the service manager, if there is one.
 *
 * @param state The service is up, on its way down, or alive.
 * @param path The manager's socket; NOTIFY_SOCKET of the environment if not given.
 * @returns Whether it was sent.
 * @throws {SystemError} When nobody takes it.
 */
export function notifyManager(
  state: ManagerState,
  path = Deno.env.get("NOTIFY_SOCKET"),
): boolean {
  if (path === undefined || path === "") return false;
  const name = new TextEncoder().encode(path);
  if (name.length > PATH_LENGTH_MAX) {
    throw new RangeError(
      `Cannot notify ${path}: its path has ${name.length} octets, allowed are ${PATH_LENGTH_MAX}`,
    );
  }
  address.bytes.fill(0);
  address.view.setUint16(0, AF_UNIX, true);
  address.bytes.set(name, 2);
  if (path.startsWith("@")) address.bytes[2] = 0;
  const { written } = new TextEncoder().encodeInto(state, message.bytes);
  const detail = `tell the service manager at ${path} ${state}`;
  const fd = check(
    libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
    "socket",
    detail,
  );
  try {
    check(
      libc.sendto(
        fd,
        message.address,
        written,
        MSG_NOSIGNAL,
        address.address,
        2 + name.length,
      ),
      "sendto",
      detail,
    );
    return true;
  } finally {
    closeAll(fd);
  }
}
