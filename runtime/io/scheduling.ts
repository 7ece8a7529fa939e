/**
 * scheduling.ts - the calling thread goes before those that share its cores
 *
 * Theory of operation
 * Nice values weigh shares, but they do not bound how long a thread waits for its share: with four
 * programs computing on two cores, a thread of nice -15 that slept and yielded was kept waiting for
 * 20 to 40 ms, which a standby must take for a death. Linux 6.12 and later let a thread of the fair
 * class ask for short slices: its turn comes sooner, and what a yield costs it is a slice. With
 * 100 us the longest waits measured were half as long and a tenth as frequent. Real-time scheduling
 * would wait for nobody, but then nobody we wait for gets the core while we look again.
 *
 * Sources: sched_setattr(2), sched(7); Linux Documentation/scheduler/sched-eevdf.rst.
 */
import { libc, Memory } from "./libc.ts";

/** Number of sched_setattr(2), which glibc does not wrap; syscall(2). */
const SCHED_SETATTR = Deno.build.arch === "x86_64" ? 314n : 274n;
/** Size of `struct sched_attr` as of Linux 3.14, octets. */
const ATTR_SIZE = 48;
const NICE_AT = 16;
const RUNTIME_AT = 24;
const PRIO_PROCESS = 0;

/**
 * Priority of the thread that makes it. Where the kernel groups tasks by session, niceness counts
 * within one session only: among all others the daemon would be one of many (sched(7), "The autogroup
 * feature"). So its session becomes as nice as the thread, if it is the daemon's own, as under systemd.
 * What the kernel does not know or allow costs priority and nothing else.
 */
export class Priority {
  readonly #attr = new Memory(ATTR_SIZE);
  readonly #ownsSession: boolean;

  /** Asks for slices of `sliceUs` microseconds from the first {@linkcode set} on. */
  constructor(sliceUs: number) {
    const stat = Deno.readTextFileSync("/proc/self/stat");
    const session = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[3]);
    this.#ownsSession = session === Deno.pid;
    this.#attr.view.setUint32(0, ATTR_SIZE, true);
    this.#attr.view.setBigUint64(RUNTIME_AT, BigInt(sliceUs) * 1000n, true);
  }

  /** Sets the nice value, -20 (goes before others) to 19. */
  set(nice: number): void {
    this.#attr.view.setInt32(NICE_AT, nice, true);
    if (libc.syscall(SCHED_SETATTR, 0n, this.#attr.address, 0n) !== 0n) {
      libc.setpriority(PRIO_PROCESS, 0, nice);
    }
    if (!this.#ownsSession) return;
    try {
      Deno.writeTextFileSync("/proc/self/autogroup", String(nice), { create: false });
    } catch {
      // No autogroups in this kernel, or no CAP_SYS_NICE.
    }
  }
}
