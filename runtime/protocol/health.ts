/**
 * health.ts - is a server healthy, by the word of a command that the operator has chosen?
 *
 * Theory of operation
 * A deadlock looks from outside like a server that waits for its database, an endless loop like one
 * that computes. Only somebody who knows the service can ask it something that a working one answers in
 * time. So a command is run every so often, and `failures` of them in a row mean that the server hangs.
 * It has no clock and starts nothing: time and results go in, what is to be done comes out.
 *
 *            somebody listens               every `every`
 *   absent ──────────────────> listening ───────────────────> a command runs, one at a time
 *     ^                            │                                │
 *     └──── it ended, or is ───────┴── healthy, or one more failure ┘
 *           started again
 *
 * Failures count from the first success on: a command that cannot work says nothing of any server, and must
 * not have one replaced time and again. It is told once.
 *
 * Nothing is asked before the server has listened, and nothing counts while it is not settled: in log mode
 * while it is played what its clients have said. What a command says that was started before is void.
 *
 *   goes ──failures in a row──> hangs ──success──> goes        told again after as many more failures
 *
 * Limits: a command that does not end is killed by the caller at `timeout`, which is a failure.
 */

/** When a server is found to hang. */
export interface HealthRule {
  /** Between two commands, from start to start, milliseconds. */
  everyMs: number;
  /** Failures in a row. */
  failures: number;
}

/** What the caller has to do. */
export type HealthEffect =
  /** Run the command, and hand its result back with this number. */
  | { kind: "run"; number: number }
  /** The server hangs: what was seen, in words; `again` when it did at the last effect as well. */
  | { kind: "hangs"; seen: string; again: boolean }
  /** The one that hung goes on. */
  | { kind: "goesOn" }
  /** The command has failed as often, and never succeeded. */
  | { kind: "useless"; seen: string };

/** Judges one server. */
export class Health {
  readonly #rule: HealthRule;
  #listened = false;
  #settled: boolean;
  #running: number | null = null;
  #number = 0;
  /** Commands up to this one asked another server, or one that was not settled. */
  #voidTo = 0;
  #nextMs = -Infinity;
  #failed = 0;
  #hangs = false;
  #hasSucceeded = false;
  #isToldUseless = false;

  /** `settled`: the server need not be played anything first. */
  constructor(rule: HealthRule, settled: boolean) {
    this.#rule = rule;
    this.#settled = settled;
  }

  /** It was found to hang, and has not gone on since. */
  get hangs(): boolean {
    return this.#hangs;
  }

  /** The server has ended or is going to be started again: what is known says nothing of the next one. */
  handleEnd(): void {
    this.#listened = false;
    this.#forget();
  }

  /** Whether it is where its clients are. */
  handleSettled(settled: boolean): void {
    this.#settled = settled;
    this.#forget();
  }

  /** Time passes; `listens` looks whether anybody listens at the service's ports. */
  handleTime(nowMs: number, listens: () => boolean): HealthEffect[] {
    if (this.#running !== null || !this.#settled || nowMs < this.#nextMs) return [];
    this.#nextMs = nowMs + this.#rule.everyMs;
    this.#listened ||= listens();
    if (!this.#listened) return [];
    this.#running = ++this.#number;
    return [{ kind: "run", number: this.#number }];
  }

  /** A command has ended; `complaint` is null when it found the server healthy. */
  handleResult(number: number, complaint: string | null): HealthEffect[] {
    if (number !== this.#running) throw new Error(`Cannot take result ${number}: none is awaited`);
    this.#running = null;
    if (number <= this.#voidTo) return [];
    if (complaint === null) {
      const hung = this.#hangs;
      this.#hasSucceeded = true;
      this.#failed = 0;
      this.#hangs = false;
      return hung ? [{ kind: "goesOn" }] : [];
    }
    this.#failed++;
    if (this.#failed < this.#rule.failures) return [];
    const seen = `its health command failed ${this.#failed} times in a row, at last: ${complaint}`;
    const again = this.#hangs;
    this.#failed = 0;
    if (!this.#hasSucceeded) {
      if (this.#isToldUseless) return [];
      this.#isToldUseless = true;
      return [{ kind: "useless", seen }];
    }
    this.#hangs = true;
    return [{ kind: "hangs", seen, again }];
  }

  #forget(): void {
    this.#voidTo = this.#number;
    this.#failed = 0;
    this.#hangs = false;
    // Asked as soon as there is somebody.
    this.#nextMs = -Infinity;
  }
}
