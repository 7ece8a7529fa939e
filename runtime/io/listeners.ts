/**
 * listeners.ts - which processes serve a port of a network namespace?
 *
 * Theory of operation
 * /proc/thread-self/net/tcp and tcp6 list the sockets of the namespace that the reading thread is in,
 * with their inodes; a process that has one open has a link "socket:[INODE]" among its descriptors. Only
 * processes of that namespace are looked at, which /proc/PID/ns/net tells.
 *
 * Limits: DESCRIPTORS_MAX of a process; what listens is opened early.
 *
 * Sources: proc_pid_net(5), proc_pid_fd(5), network_namespaces(7).
 */
import { inNamespace } from "./netns.ts";

/** State of a listening socket in /proc/net/tcp; include/net/tcp_states.h. */
const LISTEN = "0A";
/** Links of one process that are read. */
const DESCRIPTORS_MAX = 4096;

/** Which sockets are looked for. */
type Wanted = "listening" | "any";

/**
 * Processes that listen at one of `ports` in the namespace called `name`.
 *
 * @returns Their ids; none when nobody listens. A process that ends meanwhile may be left out.
 * @throws {SystemError} ENOENT when there is no such namespace.
 */
export function listenersIn(name: string, ports: readonly number[]): number[] {
  return holdersIn(name, ports, "listening");
}

/** The same with those that have a connection of one of `ports`. */
export function serversIn(name: string, ports: readonly number[]): number[] {
  return holdersIn(name, ports, "any");
}

function holdersIn(name: string, ports: readonly number[], wanted: Wanted): number[] {
  const { namespace, sockets } = inNamespace(name, () => ({
    namespace: Deno.readLinkSync("/proc/thread-self/ns/net"),
    sockets: new Set([...inodes("tcp", ports, wanted), ...inodes("tcp6", ports, wanted)]),
  }));
  if (sockets.size === 0) return [];
  const pids: number[] = [];
  for (const entry of Deno.readDirSync("/proc")) {
    const pid = Number(entry.name);
    if (Number.isInteger(pid) && holds(pid, namespace, sockets)) pids.push(pid);
  }
  return pids;
}

/** Links to sockets, as descriptors have them. */
function inodes(table: "tcp" | "tcp6", ports: readonly number[], wanted: Wanted): string[] {
  const rows = Deno.readTextFileSync(`/proc/thread-self/net/${table}`).trim().split("\n").slice(1);
  return rows.map((row) => row.trim().split(/\s+/))
    .filter(([, local, , state]) =>
      (wanted === "any" || state === LISTEN) &&
      ports.includes(parseInt(local.slice(local.lastIndexOf(":") + 1), 16))
    )
    .map((fields) => `socket:[${fields[9]}]`);
}

function holds(pid: number, namespace: string, sockets: ReadonlySet<string>): boolean {
  try {
    if (Deno.readLinkSync(`/proc/${pid}/ns/net`) !== namespace) return false;
    let left = DESCRIPTORS_MAX;
    for (const { name } of Deno.readDirSync(`/proc/${pid}/fd`)) {
      if (left-- === 0) return false;
      if (sockets.has(Deno.readLinkSync(`/proc/${pid}/fd/${name}`))) return true;
    }
  } catch {
    // It has ended, or closed what was about to be read.
  }
  return false;
}
