/**
 * process.ts - child processes that a test can wait for, and that never outlive it
 *
 * Theory of operation
 * `startProcess()` runs a program, optionally inside a network namespace through `ip netns exec`
 * (which replaces itself by the program, so the process id is the program's own). Both output
 * streams are collected in the order of arrival, up to OUTPUT_LENGTH_MAX octets; what comes later
 * is counted and dropped. Every wait has a deadline and every failed wait says what the process
 * printed. A process is ended by its own handle only, never by name; `endAllProcesses()` ends those
 * that a failed test has left.
 *
 * Sources: ip-netns(8).
 */

import { createHash } from "node:crypto";

/** Octets of output that are kept of one process. */
const OUTPUT_LENGTH_MAX = 4 << 20;
/** Characters of output that a failure message quotes. */
const QUOTE_LENGTH_MAX = 4000;

/** Processes that were started and have not ended. */
const alive = new Set<TestProcess>();

/** How a process is started. */
export interface ProcessOptions {
  /** Network namespace; without one the process shares ours. */
  namespace?: string;
  /** Environment variables beside ours. */
  env?: Record<string, string>;
  /** Working directory. */
  directory?: string;
  /** Gives the process a standard input, see {@linkcode TestProcess.write}. */
  input?: boolean;
  /**
   * Hash standard output instead of keeping it, see {@linkcode TestProcess.outputHash}; for
   * programs that print gigabytes.
   */
  hashOutput?: boolean;
}

/** How a process ended. */
export interface ExitState {
  /** Exit status; 128 plus the signal's number after a signal. */
  code: number;
  /** The signal that ended it, or null. */
  signal: string | null;
}

/** A running child process. */
export class TestProcess {
  /** Process id of the program itself. */
  readonly pid: number;
  /** Resolves when the process has ended and its output has been read to the end. */
  readonly exited: Promise<ExitState>;
  #child: Deno.ChildProcess;
  #name: string;
  #output = "";
  #dropped = 0;
  #hash = createHash("sha256");
  #hashedOctets = 0;
  #hasEnded = false;
  #waiters = new Set<() => void>();
  #input?: WritableStreamDefaultWriter<Uint8Array>;

  /** Use {@linkcode startProcess}. */
  constructor(name: string, child: Deno.ChildProcess, options: ProcessOptions) {
    this.#name = name;
    this.#child = child;
    this.pid = child.pid;
    if (options.input === true) this.#input = child.stdin.getWriter();
    const streams = [
      options.hashOutput === true ? this.#hashAll(child.stdout) : this.#collect(child.stdout),
      this.#collect(child.stderr),
    ];
    this.exited = Promise.all([child.status, ...streams]).then(async ([status]) => {
      this.#hasEnded = true;
      await this.#input?.abort().catch(() => {}); // the reader is gone, nothing can be said to it
      this.#wake();
      return { code: status.code, signal: status.signal };
    });
  }

  /** Whether the process has ended. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Everything printed so far, both streams in order of arrival. */
  output(): string {
    const tail = this.#dropped === 0 ? "" : `\n[${this.#dropped} octets more were dropped]`;
    return this.#output + tail;
  }

  /** SHA-256 of standard output in hex and its length in octets; for `hashOutput` only. */
  outputHash(): { sha256: string; octets: number } {
    return { sha256: this.#hash.copy().digest("hex"), octets: this.#hashedOctets };
  }

  /** Octets of standard output so far; for `hashOutput` only. */
  get outputOctets(): number {
    return this.#hashedOctets;
  }

  /**
   * Waits for the process to print something.
   *
   * @param text What to wait for.
   * @param timeoutMs How long.
   * @throws {Error} If the process ends or the time runs out first; the message quotes the output.
   */
  async waitForOutput(text: string, timeoutMs: number): Promise<void> {
    const deadlineMs = performance.now() + timeoutMs;
    while (!this.#output.includes(text)) {
      const leftMs = deadlineMs - performance.now();
      if (this.#hasEnded || leftMs <= 0) {
        const why = this.#hasEnded ? "it ended" : `${timeoutMs} ms went by`;
        throw new Error(`Waited for '${text}' from ${this.#name}: ${why}; ${this.#quote()}`);
      }
      await this.#nextChange(leftMs);
    }
  }

  /**
   * Waits for the end of the process, and kills it when the time runs out.
   *
   * @param timeoutMs How long.
   * @returns How it ended.
   * @throws {Error} If it did not end in time; the message quotes the output.
   */
  async waitForExit(timeoutMs: number): Promise<ExitState> {
    const timeout = Promise.withResolvers<undefined>();
    const timer = setTimeout(timeout.resolve, timeoutMs);
    const state = await Promise.race([this.exited, timeout.promise]);
    clearTimeout(timer);
    if (state !== undefined) return state;
    await this.kill();
    throw new Error(`${this.#name} did not end within ${timeoutMs} ms; ${this.#quote()}`);
  }

  /**
   * Waits for the end of the process and insists on exit status 0.
   *
   * @param timeoutMs How long.
   * @throws {Error} If it ended otherwise or not in time; the message quotes the output.
   */
  async mustSucceed(timeoutMs: number): Promise<void> {
    const state = await this.waitForExit(timeoutMs);
    if (state.code === 0) return;
    const how = state.signal === null ? `status ${state.code}` : `signal ${state.signal}`;
    throw new Error(`${this.#name} ended with ${how}; ${this.#quote()}`);
  }

  /** Sends a signal; a process that is gone already takes no harm. */
  signal(signal: Deno.Signal): void {
    if (this.#hasEnded) return;
    try {
      this.#child.kill(signal);
    } catch (error) {
      if (!(error instanceof TypeError) && !(error instanceof Deno.errors.NotFound)) throw error;
    }
  }

  /** Writes to standard input; only with the option `input`. */
  async write(text: string): Promise<void> {
    await this.#openInput().write(new TextEncoder().encode(text));
  }

  /** Closes standard input, which tells several of our programs to end; only with `input`. */
  async closeInput(): Promise<void> {
    await this.#openInput().close();
    this.#input = undefined;
  }

  /** Ends the process by SIGKILL and waits until it is gone. */
  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.exited;
  }

  async #collect(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const octets of stream) {
      const text = decoder.decode(octets, { stream: true });
      const room = OUTPUT_LENGTH_MAX - this.#output.length;
      this.#output += text.slice(0, room);
      this.#dropped += Math.max(0, text.length - room);
      this.#wake();
    }
  }

  async #hashAll(stream: ReadableStream<Uint8Array>): Promise<void> {
    for await (const octets of stream) {
      this.#hash.update(octets);
      this.#hashedOctets += octets.length;
      this.#wake();
    }
  }

  #openInput(): WritableStreamDefaultWriter<Uint8Array> {
    if (this.#input !== undefined && !this.#hasEnded) return this.#input;
    const why = this.#hasEnded ? "it has ended" : "its input is not open";
    throw new Error(`Cannot tell ${this.#name} anything: ${why}; ${this.#quote()}`);
  }

  #wake(): void {
    for (const waiter of this.#waiters) waiter();
    this.#waiters.clear();
  }

  async #nextChange(timeoutMs: number): Promise<void> {
    const change = Promise.withResolvers<void>();
    this.#waiters.add(change.resolve);
    const timer = setTimeout(change.resolve, timeoutMs);
    await change.promise;
    clearTimeout(timer);
    this.#waiters.delete(change.resolve);
  }

  #quote(): string {
    const text = this.output().trim();
    if (text === "") return "it printed nothing";
    return `it printed:\n${text.slice(-QUOTE_LENGTH_MAX)}`;
  }
}

/**
 * Starts a program.
 *
 * @param program Its name or path.
 * @param args Its arguments.
 * @param options Namespace, environment, standard input.
 * @returns The running process.
 * @throws {Deno.errors.NotFound} If there is no such program.
 */
export function startProcess(
  program: string,
  args: string[],
  options: ProcessOptions = {},
): TestProcess {
  const { namespace, env, directory, input } = options;
  const words = namespace === undefined
    ? [program, ...args]
    : ["ip", "netns", "exec", namespace, program, ...args];
  const child = new Deno.Command(words[0], {
    args: words.slice(1),
    env,
    cwd: directory,
    stdin: input === true ? "piped" : "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const place = namespace === undefined ? "" : ` in ${namespace}`;
  const name = `${[program, ...args].join(" ").slice(0, 200)}${place}`;
  const process = new TestProcess(name, child, options);
  alive.add(process);
  process.exited.then(() => alive.delete(process));
  return process;
}

/** Ends every process that was started here and still runs. */
export async function endAllProcesses(): Promise<void> {
  await Promise.all([...alive].map((process) => process.kill()));
}

/**
 * Runs a program to its end.
 *
 * @param program Its name or path.
 * @param args Its arguments.
 * @param options As for {@linkcode startProcess}, and `timeoutMs` (default 10 s).
 * @returns What it printed.
 * @throws {Error} If it fails or does not end in time; the message quotes the output.
 */
export async function runProcess(
  program: string,
  args: string[],
  options: ProcessOptions & { timeoutMs?: number } = {},
): Promise<string> {
  const process = startProcess(program, args, options);
  await process.mustSucceed(options.timeoutMs ?? 10_000);
  return process.output();
}
