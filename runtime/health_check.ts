/**
 * health_check.ts - runs a service's health command, and tells when its server hangs
 *
 * Theory of operation
 * On the main thread. The command runs where the server does, in its network namespace and as its user,
 * without its capabilities, and leads a process group of its own, which is killed when it takes longer
 * than `timeout` and after its end. Exit status 0 is healthy. protocol/health.ts decides.
 *
 * Limits: one command at a time; of what it prints COMPLAINT_OCTETS_MAX are kept, the rest is read and
 * dropped.
 */
import { type Account, lookUp, signalGroup, spawnInNamespace } from "./app.ts";
import type { HealthConfig } from "./config.ts";
import { listenersIn } from "./io/listeners.ts";
import { Health, type HealthEffect } from "./protocol/health.ts";

/** Octets of what a command prints that are kept, for people. */
const COMPLAINT_OCTETS_MAX = 512;
/** Between two looks whether a command is due, milliseconds; a tenth of a short interval. */
const LOOK_MS = 100;

/** What is asked, and who is told. */
export interface HealthCheckOptions {
  /** Network namespace of the server. */
  netns: string;
  /** Ports of the service. */
  ports: readonly number[];
  /** User of server and command; null for the daemon's own. */
  user: string | null;
  /** The command, and when it is run. */
  health: HealthConfig;
  /** The server need not be played anything before it counts. */
  settled: boolean;
  /** It hangs: what was seen, in words; `again`: it was told before. */
  onHang: (seen: string, again: boolean) => void;
  /** The one that hung goes on. */
  onGoesOn: () => void;
  /** The command has never succeeded, so its failures count for nothing. */
  onUseless: (seen: string) => void;
}

/** Asks after one server, from now on. */
export class HealthCheck {
  readonly #options: HealthCheckOptions;
  readonly #health: Health;
  readonly #timer: ReturnType<typeof setInterval>;
  #kill: (() => void) | null = null;
  #isStopped = false;

  /** Asks until `stop()`. */
  constructor(options: HealthCheckOptions) {
    const { health, settled } = options;
    this.#options = options;
    this.#health = new Health(health, settled);
    this.#timer = setInterval(() => this.#look(), Math.min(LOOK_MS, health.everyMs));
  }

  /** The server was found to hang, and has not gone on since. */
  get hangs(): boolean {
    return this.#health.hangs;
  }

  /** The server has ended, or is going to be started again. */
  noteEnd(): void {
    this.#health.handleEnd();
  }

  /** Whether the server is where its clients are. */
  noteSettled(settled: boolean): void {
    this.#health.handleSettled(settled);
  }

  /** Asks no more, and ends a command that runs. */
  stop(): void {
    this.#isStopped = true;
    clearInterval(this.#timer);
    this.#kill?.();
  }

  #look(): void {
    const { netns, ports } = this.#options;
    const listens = () => listenersIn(netns, ports).length > 0;
    this.#perform(this.#health.handleTime(performance.now(), listens));
  }

  #perform(effects: HealthEffect[]): void {
    if (this.#isStopped) return;
    for (const effect of effects) {
      if (effect.kind === "hangs") this.#options.onHang(effect.seen, effect.again);
      else if (effect.kind === "goesOn") this.#options.onGoesOn();
      else if (effect.kind === "useless") this.#options.onUseless(effect.seen);
      else this.#run(effect.number);
    }
  }

  async #run(number: number): Promise<void> {
    let complaint: string | null;
    try {
      complaint = await this.#ask();
    } catch (error) {
      complaint = (error as Error).message;
    }
    this.#perform(this.#health.handleResult(number, complaint));
  }

  /** Runs the command; what is wrong, or null. */
  async #ask(): Promise<string | null> {
    const { netns, user, health } = this.#options;
    const account: Account | null = user === null ? null : await lookUp(user);
    if (this.#isStopped) return null;
    const child = spawnInNamespace(netns, health.command, account);
    let isLate = false;
    this.#kill = () => signalGroup(child.pid, "SIGKILL");
    const timer = setTimeout(() => {
      isLate = true;
      this.#kill?.();
    }, health.timeoutMs);
    // What has left the group may hold the pipes open: the command's end is what counts.
    const texts = [new Excerpt(child.stderr), new Excerpt(child.stdout)];
    const status = await child.status;
    clearTimeout(timer);
    this.#kill();
    this.#kill = null;
    const said = texts.map((text) => text.close()).find((text) => text !== "");
    if (isLate) return `it took longer than ${health.timeoutMs} ms`;
    if (status.success) return null;
    const how = status.signal ?? `status ${status.code}`;
    return said === undefined ? how : `${how}: ${said}`;
  }
}

/** The beginning of what a command prints. */
class Excerpt {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #decoder = new TextDecoder();
  #text = "";

  constructor(stream: ReadableStream<Uint8Array>) {
    this.#reader = stream.getReader();
    this.#read().catch(() => {}); // closed while it waited
  }

  /** What there is by now, in one line; nothing more is read. */
  close(): string {
    this.#reader.cancel().catch(() => {});
    return this.#text.trim().replaceAll(/\s*\n\s*/g, "; ");
  }

  async #read(): Promise<void> {
    for (let piece = await this.#reader.read(); !piece.done; piece = await this.#reader.read()) {
      const room = COMPLAINT_OCTETS_MAX - this.#text.length;
      this.#text += this.#decoder.decode(piece.value, { stream: true }).slice(0, room);
    }
  }
}
