/**
 * namespaces.ts - make and remove network namespaces, and find the processes inside one
 *
 * Theory of operation
 * ip(8) does the work, many commands to one process by way of its batch mode: 2 ms for a batch. A
 * process belongs to a namespace when the link /proc/PID/ns/net has the namespace's inode; that is how
 * the lab kills "everything on a host" without knowing names, and nothing else.
 *
 * What ends a run must also work in the handler of a signal or an error, where nothing can be awaited:
 * the functions for that are synchronous.
 *
 * Sources: ip-netns(8), network_namespaces(7), proc_pid_ns(5).
 */

/** Where ip(8) keeps namespaces. */
const NAMESPACES = "/run/netns";
/** How often killing is repeated for processes that start others meanwhile. */
const KILL_ROUNDS_MAX = 200;
/** Time between two rounds, milliseconds. */
const KILL_ROUND_MS = 5;

/** A process and the namespace it is in. */
export interface NamespaceProcess {
  /** Process id. */
  pid: number;
  /** Inode of its network namespace. */
  inode: number;
}

/**
 * Runs several commands of ip(8) in one process; it stops at the first that fails.
 *
 * @param lines Commands without the word `ip`.
 * @param netns Namespace to run them in; without one, ours.
 * @throws {Error} Naming the command that failed and what ip said.
 */
export async function ipBatch(lines: readonly string[], netns?: string): Promise<void> {
  await finish(start(netns, "null"), { lines, netns });
}

/**
 * Like {@linkcode ipBatch} in two steps, for commands whose moment matters.
 *
 * @returns Once ip is ready to read commands: a function that has it carry them out, within a millisecond.
 */
export async function prepareIpBatch(
  lines: readonly string[],
  netns: string,
): Promise<() => Promise<void>> {
  const child = start(netns, "piped");
  const ready = child.stdout.getReader();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode("link show lo\n"));
  writer.releaseLock();
  await ready.read();
  await ready.cancel();
  return () => finish(child, { lines, netns });
}

function start(netns: string | undefined, stdout: "null" | "piped"): Deno.ChildProcess {
  return new Deno.Command("ip", {
    args: [...(netns === undefined ? [] : ["-n", netns]), "-batch", "-"],
    stdin: "piped",
    stdout,
    stderr: "piped",
  }).spawn();
}

async function finish(
  child: Deno.ChildProcess,
  { lines, netns }: { lines: readonly string[]; netns?: string },
): Promise<void> {
  const complaint = new Response(child.stderr).text();
  const writer = child.stdin.getWriter();
  // A failure closes the pipe early; ip's own message says more.
  await writer.write(new TextEncoder().encode(lines.join("\n") + "\n")).catch(() => {});
  await writer.close().catch(() => {});
  const [text, { success }] = [(await complaint).trim(), await child.status];
  if (success) return;
  throw new Error(
    `Cannot run "ip ${lines.join("; ip ")}" in namespace ${netns ?? "of this process"}: ` +
      text.replaceAll("\n", "; "),
  );
}

/** Says what is missing for namespaces to be made here; null when nothing is. */
export function whyNoNamespaces(): string | null {
  if (Deno.build.os !== "linux") return `it needs Linux, this is ${Deno.build.os}`;
  if (Deno.uid() !== 0) return "it needs root, for network namespaces: try sudo";
  try {
    new Deno.Command("ip", { args: ["-V"], stdout: "null", stderr: "null" }).outputSync();
    return null;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return "it needs the program ip: apt-get install iproute2";
  }
}

/** Names of all namespaces that ip(8) knows. */
export function namespaceNames(): string[] {
  try {
    return [...Deno.readDirSync(NAMESPACES)].map(({ name }) => name);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/**
 * Inode of a namespace; null when there is none of this name.
 */
export function inodeOf(netns: string): number | null {
  try {
    return Deno.statSync(`${NAMESPACES}/${netns}`).ino;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** All processes in the namespaces with these inodes; never this one. */
export function processesIn(inodes: ReadonlySet<number>): NamespaceProcess[] {
  const found: NamespaceProcess[] = [];
  for (const { name } of Deno.readDirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === Deno.pid) continue;
    const inode = inodeOfProcess(pid);
    if (inode !== null && inodes.has(inode)) found.push({ pid, inode });
  }
  return found;
}

/**
 * Ends every process in some namespaces by SIGKILL, and returns when there is none.
 *
 * @param first Inode of the namespace whose processes are to die before the others.
 * @throws {Error} When processes remain after KILL_ROUNDS_MAX rounds.
 */
export function killAllIn(inodes: ReadonlySet<number>, first?: number): void {
  let alive: NamespaceProcess[] = [];
  for (let round = 0; round < KILL_ROUNDS_MAX; round++) {
    alive = processesIn(inodes);
    if (alive.length === 0) return;
    alive.sort((a, b) => Number(b.inode === first) - Number(a.inode === first));
    for (const { pid } of alive) kill(pid);
    sleepSync(KILL_ROUND_MS);
  }
  const pids = alive.map(({ pid }) => pid).join(", ");
  throw new Error(`Cannot end processes ${pids}: alive after ${KILL_ROUNDS_MAX} times SIGKILL`);
}

/** Removes namespaces by name, without waiting for the event loop; those that are gone are passed over. */
export function deleteNamespacesSync(names: readonly string[]): void {
  for (const name of names) {
    if (inodeOf(name) === null) continue;
    const { success, stderr } = new Deno.Command("ip", {
      args: ["netns", "delete", name],
      stdin: "null",
    }).outputSync();
    if (!success && inodeOf(name) !== null) {
      const complaint = new TextDecoder().decode(stderr).trim();
      throw new Error(`Cannot delete network namespace ${name}: ${complaint}`);
    }
  }
}

/** Whether there is a process with this id. */
export function isAlive(pid: number): boolean {
  try {
    Deno.statSync(`/proc/${pid}`);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Null for a process that is gone, has ended, or belongs to the kernel. */
function inodeOfProcess(pid: number): number | null {
  try {
    const match = /^net:\[(\d+)\]$/.exec(Deno.readLinkSync(`/proc/${pid}/ns/net`));
    return match === null ? null : Number(match[1]);
  } catch {
    return null;
  }
}

function kill(pid: number): void {
  try {
    Deno.kill(pid, "SIGKILL");
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

function sleepSync(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
