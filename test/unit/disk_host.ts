/**
 * disk_host.ts - a host's log on a disk that may lose power, beside a core that is driven pass by pass
 *
 * Both sides of the ring run in one thread: the data plane's after each pass, the writer's whenever `isBusy()`
 * says that the disk is not, so that stores lag behind. The power fails in the midst of a call of
 * the writer's.
 */
import { DiskLog, type DiskMessage, type FoundLog } from "../../runtime/log_store/disk_log.ts";
import { newRing, Ring } from "../../runtime/log_store/ring.ts";
import { Storing } from "../../runtime/log_store/storing.ts";
import type { Random } from "../net/random.ts";
import type { Driver } from "./core_driver.ts";
import { FaultyFiles, PowerCut } from "./faulty_files.ts";

const OWNER = { service: "web", address: "10.0.0.100" };
/** Twice the longest message: it must fit while less than half is in use. */
const RING_OCTETS = 8 << 20;
/** Octets of one message that tell again, as in loop.ts. */
const TELL_OCTETS = 128 << 10;

/** How a disk behaves. */
export interface DiskHostOptions {
  /** Random choices. */
  random: Random;
  /** Octets of a segment. */
  segmentOctets: number;
  /** How much longer than needed the log may be, octets. */
  slackOctets?: number;
  /** Octets that are kept of one connection. */
  logLimit: number;
  /** The writer does nothing in this pass. */
  isBusy: () => boolean;
  /** On a full disk clients wait. */
  holds?: boolean;
}

/** The disk of one host, over several lives of its daemon. */
export class DiskHost {
  /** What is on it. */
  files = new FaultyFiles();
  /** What the writer has warned of. */
  readonly warnings: string[] = [];
  readonly #options: DiskHostOptions;
  #log!: DiskLog;
  #storing!: Storing;
  #driver!: Driver;
  #nowMs = 0;

  /** An empty disk; `start()` comes next. */
  constructor(options: DiskHostOptions) {
    this.#options = options;
  }

  /** The data plane's side, of the present life. */
  get log(): DiskLog {
    return this.#log;
  }

  /** A daemon starts: its core is brought to where the log ends. The power fails after `calls`. */
  start(driver: Driver, nowMs: number, calls = Infinity): FoundLog {
    const { random, segmentOctets, slackOctets, logLimit } = this.#options;
    const ring = newRing(RING_OCTETS);
    this.#nowMs = nowMs;
    this.#driver = driver;
    this.#log = new DiskLog(
      driver.core,
      { ring, eventFd: -1, segmentOctets, slackOctets },
      logLimit,
    );
    // Clocks of different lives have nothing in common but the wall's.
    const clocks = { nowMs: driver.nowMs, wallMs: nowMs };
    const found = this.#log.recover(this.files, OWNER, clocks);
    this.files = this.files.afterKill(calls);
    this.#storing = new Storing({
      files: this.files,
      owner: OWNER,
      ring: new Ring(ring, -1),
      holds: this.#options.holds ?? false,
      random: () => random.seed(),
      warn: (text) => this.warnings.push(text),
    }, new Ring(ring, -1).awaitStart()!);
    return found;
  }

  /** Before a pass: what the log has to say, as `DiskLog.take()`. */
  before(nowMs: number): ReturnType<DiskLog["take"]> {
    this.#nowMs = nowMs;
    return this.#log.take(nowMs);
  }

  /** A primary's message, before it is sealed; null for none. */
  message(): DiskMessage | null {
    const { bytes, wasm } = this.#driver.core;
    const below = this.#log.tellBelow;
    const tells = below > 0 && !this.#log.isCongested;
    if (tells && wasm.tellAgain(below, TELL_OCTETS) === 0) this.#log.noteTold();
    if (wasm.bodyLength() === 0) return null;
    const body = bytes.subarray(wasm.body(), wasm.body() + wasm.bodyLength());
    return { seq: wasm.messageSeq(), urgent: wasm.isInputCommitted() === 0, body };
  }

  /** Hands over a message; false when there is no room for it. */
  put(message: DiskMessage): boolean {
    return this.#log.put(message, this.#nowMs);
  }

  /**
   * After a pass the writer may do something.
   *
   * @returns Whether something is on its way.
   * @throws {PowerCut} When the power fails.
   */
  after(): boolean {
    if (!this.#options.isBusy()) this.#storing.step(this.#nowMs);
    return this.#log.status().waitingOctets > 0;
  }

  /** The daemon dies, or the host loses its power, as it has when the writer has found out. */
  fail(how: "killed" | "power"): void {
    this.files = how === "killed"
      ? this.files.afterKill()
      : this.files.afterPowerCut(this.#options.random);
  }
}

export { PowerCut };
