/**
 * daemon_process.ts - a `holdfast up` that runs on a machine of the lab
 *
 * Theory of operation
 * The daemon's standard error goes to a file, not to a pipe: it can be read at any time, survives the
 * daemon, and nobody has to drain it when the lab is kept after its maker's end. A shell opens the file and
 * replaces itself by the daemon, so the process id is the daemon's. It is asked through its control
 * socket, which is a file and therefore reached from every network namespace.
 */

import { ControlClient } from "../control.ts";
import type { NodeStatus } from "../status.ts";
import type { Node } from "./node.ts";

export type { ControlClient } from "../control.ts";
export type { NodeStatus } from "../status.ts";

/** How long a daemon may take until it answers, milliseconds. */
const START_TIMEOUT_MS = 15_000;
/** How long it may take to end after SIGTERM, milliseconds. */
const STOP_TIMEOUT_MS = 15_000;
const POLL_MS = 20;
/** Octets at the end of the log that are handed out. */
const LOG_LENGTH_MAX = 1 << 20;

/** Where a daemon's things are. */
export interface DaemonPlaces {
  /** Its configuration. */
  configPath: string;
  /** Its control socket. */
  controlPath: string;
  /** File for its standard error; appended to. */
  logPath: string;
}

/**
 * The words that run this program with some arguments: as a script under Deno, or the binary itself.
 */
export function holdfastCommand(args: readonly string[]): string[] {
  if (Deno.build.standalone) return [Deno.execPath(), ...args];
  return [Deno.execPath(), "run", "-A", scriptPath("../main.ts"), ...args];
}

/** Path of a script beside this one. */
export function scriptPath(relative: string): string {
  return decodeURIComponent(new URL(relative, import.meta.url).pathname);
}

/** A running daemon. */
export class DaemonProcess {
  /** Process id of the daemon itself. */
  readonly pid: number;
  /** Its handle. */
  readonly process: Deno.ChildProcess;
  /** What it can be asked. */
  readonly control: ControlClient;
  readonly #places: DaemonPlaces;
  readonly #host: string;
  #hasEnded = false;

  /** Use {@linkcode startDaemonProcess}. */
  constructor(host: string, process: Deno.ChildProcess, places: DaemonPlaces) {
    this.#host = host;
    this.pid = process.pid;
    this.process = process;
    this.#places = places;
    this.control = new ControlClient(places.controlPath);
    process.status.then(() => this.#hasEnded = true);
  }

  /** Whether it has ended. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** What it said last on standard error, at most 1 MiB. */
  get log(): string {
    try {
      using file = Deno.openSync(this.#places.logPath);
      const { size } = file.statSync();
      file.seekSync(Math.max(0, size - LOG_LENGTH_MAX), Deno.SeekMode.Start);
      const octets = new Uint8Array(LOG_LENGTH_MAX);
      let length = 0;
      for (;;) {
        const count = file.readSync(octets.subarray(length));
        if (count === null || count === 0) break;
        length += count;
      }
      return new TextDecoder().decode(octets.subarray(0, length));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return "";
      throw error;
    }
  }

  /**
   * Asks the daemon how it is.
   *
   * @throws {ControlError} When it does not answer, or cannot yet.
   */
  status(): Promise<NodeStatus> {
    return this.control.status();
  }

  /**
   * Waits for something in the status.
   *
   * @param condition Says when it is so.
   * @param options `what` completes "waited for ..."; `timeoutMs` is the deadline.
   * @throws {Error} If it is not so by then or the daemon ends; the message holds the end of the log.
   */
  async until(
    condition: (status: NodeStatus) => boolean,
    options: { what: string; timeoutMs: number },
  ): Promise<NodeStatus> {
    const deadlineMs = performance.now() + options.timeoutMs;
    let last = "nothing was heard of it";
    while (performance.now() < deadlineMs && !this.#hasEnded) {
      try {
        const status = await this.status();
        if (condition(status)) return status;
        last = JSON.stringify(status);
      } catch (error) {
        last = String(error);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    const why = this.#hasEnded ? "the daemon ended" : `not within ${options.timeoutMs} ms`;
    throw new Error(
      `Waited for ${options.what} at ${this.#host}: ${why}; last: ${last}; its log ends:\n` +
        this.log.slice(-4000),
    );
  }

  /**
   * Ends it by SIGTERM: it hands over first where a standby is ready.
   *
   * @returns Its exit status.
   * @throws {Error} When it does not end within 15 s; it is killed then.
   */
  async stop(): Promise<Deno.CommandStatus> {
    if (this.#hasEnded) return await this.process.status;
    const { promise, resolve } = Promise.withResolvers<null>();
    const timer = setTimeout(() => resolve(null), STOP_TIMEOUT_MS);
    this.process.kill("SIGTERM");
    const status = await Promise.race([this.process.status, promise]);
    clearTimeout(timer);
    if (status !== null) return status;
    await this.kill9();
    throw new Error(
      `Cannot stop the daemon of ${this.#host}: not ended ${STOP_TIMEOUT_MS} ms after SIGTERM; ` +
        `its log ends:\n${this.log.slice(-4000)}`,
    );
  }

  /** Ends the daemon alone by SIGKILL, and waits until it is gone. */
  async kill9(): Promise<void> {
    if (!this.#hasEnded) this.process.kill("SIGKILL");
    await this.process.status;
  }
}

/**
 * Starts a daemon on a host and resolves when its control socket answers.
 *
 * @throws {Error} When it ends or does not answer within 15 s; the message holds the end of its log.
 */
export async function startDaemonProcess(
  host: Node,
  places: DaemonPlaces,
  env: Record<string, string>,
): Promise<DaemonProcess> {
  const process = host.spawn(
    [
      "sh",
      "-c",
      'log=$1; shift; exec "$@" 2>>"$log"',
      "sh",
      places.logPath,
      ...holdfastCommand(["up", "-c", places.configPath]),
    ],
    // A session of its own, as a service manager would give it: see `raiseAutogroup()` in loop.ts.
    { env, stdout: "null", stderr: "inherit", detached: true },
  );
  const daemon = new DaemonProcess(host.name, process, places);
  try {
    await daemon.until(() => true, { what: "the daemon", timeoutMs: START_TIMEOUT_MS });
    return daemon;
  } catch (error) {
    await daemon.kill9();
    throw error;
  }
}

/**
 * Starts a witness on a machine and resolves when it says that it is up.
 *
 * @throws {Error} When it ends or does not within 15 s; the message holds its log.
 */
export async function startWitnessProcess(
  machine: Node,
  places: { listen: string; statePath: string; logPath: string },
): Promise<Deno.ChildProcess> {
  const { listen, statePath, logPath } = places;
  const before = readLog(logPath).length;
  const process = machine.spawn(
    [
      ...["sh", "-c", 'log=$1; shift; exec "$@" 2>>"$log"', "sh", logPath],
      ...holdfastCommand(["witness", "--listen", listen, "--state", statePath]),
    ],
    { stdout: "null", stderr: "inherit" },
  );
  let hasEnded = false;
  process.status.then(() => hasEnded = true);
  const deadlineMs = performance.now() + START_TIMEOUT_MS;
  while (!hasEnded && performance.now() < deadlineMs) {
    if (/ up /.test(readLog(logPath).slice(before))) return process;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  if (!hasEnded) process.kill("SIGKILL");
  throw new Error(`Cannot start the witness; its log: ${readLog(logPath).slice(-2000)}`);
}

function readLog(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}
