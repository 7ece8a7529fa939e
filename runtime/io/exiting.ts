/**
 * exiting.ts - is a process on its way out, or stopped?
 *
 * Theory of operation
 * A kernel marks every thread of a dying process with PF_EXITING before it closes what the process has
 * open. So when a FIN or RST of its connections is here and no thread has the mark, the program has
 * closed them itself. A signal that ends a process is made a SIGKILL that waits for each thread; when
 * several processes are killed at once, some have that still while others are closing already. The mark stands in field 9 of /proc/PID/stat; a thread that has closed all is a
 * zombie, field 3, or gone. A program may go on after its first thread has ended, so all threads are
 * looked at then. A process that was stopped by a signal (T) is so with all its threads; one that a
 * debugger holds is another thing (t).
 *
 * Sources: proc_pid_stat(5); PF_EXITING in include/linux/sched.h.
 */

const PF_EXITING = 0x4;
/** No such process; errno(3). */
const ESRCH = 3;
/** Fields of stat after the name, which may hold anything and ends with the last ")". */
const STATE_FIELD = 0;
const GROUP_FIELD = 2;
const FLAGS_FIELD = 6;
const PENDING_FIELD = 28;
/** SIGKILL in a set of signals. */
const KILL_MASK = 1 << (9 - 1);

/**
 * What is known of a process: it runs; it is exiting, and some of what it had open still is; it is gone,
 * and all is closed.
 */
export type Life = "runs" | "exiting" | "gone";

/** Whether the process `pid` runs; about 20 microseconds. */
export function lifeOf(pid: number): Life {
  const first = lifeOfThread(`/proc/${pid}/stat`);
  if (first === "runs") return first;
  const lives: Life[] = [];
  try {
    for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
      lives.push(lifeOfThread(`/proc/${pid}/task/${name}/stat`));
    }
  } catch (error) {
    if (!isGone(error)) throw error;
  }
  return lives.find((life) => life === "runs") ?? lives.find((life) => life !== "gone") ?? "gone";
}

/** Whether the process `pid` was stopped by a signal and not continued since. */
export function isStopped(pid: number): boolean {
  const stat = readStat(`/proc/${pid}/stat`);
  return stat !== null && fieldsOf(stat)[STATE_FIELD] === "T";
}

/** Whether any process of the process group `group` still has something open; some milliseconds. */
export function isGroupAlive(group: number): boolean {
  for (const { name } of Deno.readDirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const stat = readStat(`/proc/${pid}/stat`);
    const isMember = stat !== null && Number(fieldsOf(stat)[GROUP_FIELD]) === group;
    if (isMember && lifeOf(pid) !== "gone") return true;
  }
  return false;
}

/** What a stat file says; null when there is no such process. */
function readStat(path: string): string | null {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

/** The fields after the name. */
function fieldsOf(stat: string): string[] {
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

function lifeOfThread(path: string): Life {
  const stat = readStat(path);
  return stat === null ? "gone" : lifeInStat(stat);
}

/** What a thread's stat file says of its life. */
export function lifeInStat(stat: string): Life {
  const fields = fieldsOf(stat);
  if (fields[STATE_FIELD] === "Z" || fields[STATE_FIELD] === "X") return "gone";
  const isExiting = (Number(fields[FLAGS_FIELD]) & PF_EXITING) !== 0;
  return isExiting || (Number(fields[PENDING_FIELD]) & KILL_MASK) !== 0 ? "exiting" : "runs";
}

/** ENOENT when it is opened, ESRCH when it is read; the latter has no name in Deno. */
function isGone(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound ||
    (error instanceof Error && error.message.includes(`(os error ${ESRCH})`));
}
