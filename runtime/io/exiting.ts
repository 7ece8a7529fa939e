/**
 * exiting.ts - is a process on its way out?
 *
 * Theory of operation
 * A kernel marks every thread of a dying process with PF_EXITING before it closes what the process has
 * open. So when a FIN or RST of its connections is here and no thread has the mark, the program has
 * closed them itself. The mark stands in field 9 of /proc/PID/stat; a process that is gone, or a zombie,
 * has it too. A program may go on after its first thread has ended, so all threads are looked at then.
 *
 * Sources: proc_pid_stat(5); PF_EXITING in include/linux/sched.h.
 */

const PF_EXITING = 0x4;
/** No such process; errno(3). */
const ESRCH = 3;
/** Fields of stat after the name, which may hold anything and ends with the last ")". */
const FLAGS_FIELD = 6;

/** Whether the process `pid` is exiting or gone; about 20 microseconds. */
export function isExiting(pid: number): boolean {
  if (!isThreadExiting(`/proc/${pid}/stat`)) return false;
  try {
    for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
      if (!isThreadExiting(`/proc/${pid}/task/${name}/stat`)) return false;
    }
  } catch (error) {
    if (!isGone(error)) throw error;
  }
  return true;
}

function isThreadExiting(path: string): boolean {
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (error) {
    if (isGone(error)) return true;
    throw error;
  }
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[FLAGS_FIELD]) & PF_EXITING) !== 0;
}

/** ENOENT when it is opened, ESRCH when it is read; the latter has no name in Deno. */
function isGone(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound ||
    (error instanceof Error && error.message.includes(`(os error ${ESRCH})`));
}
