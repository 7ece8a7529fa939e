/**
 * disk_log.ts - the data plane's side of a log on disk: a standby that only stores
 *
 * Theory of operation
 * To the core the disk is a standby in log mode. The messages that one would be sent go into the ring
 * (ring.ts) to the thread that stores them (storing.ts); what is durable is committed, and what waited for
 * it leaves. When the daemon starts it applies all that is stored to its core, as a standby does, and
 * becomes primary with the disk as the standby that stayed.
 *
 *   core ──message──> ring ──> writer: fdatasync      start:  segments ──bodies──> core ──> promote
 *    ^ committed ───── stored ──────┘
 *
 * Segments are told apart here: the core notes in which one each connection's OPEN lies. At the end of
 * a segment those before the oldest that is still needed are given up. When the log has become twice as
 * long as what the core keeps, connections that began in old segments are told again, a piece with each
 * message (core/segment/telling.ts), so that those can go too.
 *
 * A log that cannot be written is given up (storing.ts): its connections are unprotected from then on, and
 * after REJOIN_MS all are protected again, if the disk takes them: it is told of those that live.
 *
 * Limits: a segment ends with the message that takes it beyond SEGMENT_OCTETS. While more than half of the
 * ring waits, nothing should be read from clients or servers (`isCongested`): a slow disk slows them.
 */
import type { Core } from "../core.ts";
import { CoreRole } from "../core.ts";
import type { DiskLogStatus } from "../status.ts";
import type { LogFiles } from "./files.ts";
import { type LogOwner, recordOctets } from "./record.ts";
import { Entry, Ring } from "./ring.ts";
import { LogStoreError, recover } from "./segments.ts";

/** Octets of a segment, as the config does not say otherwise. */
export const SEGMENT_OCTETS = 16 << 20;
/** A log may be so much longer than twice what the core keeps, octets. */
const SLACK_OCTETS = 4 * SEGMENT_OCTETS;
/** Octets of one message that tell again what was told before. */
const TELL_OCTETS = 128 << 10;
/** A log that was given up is begun anew after so long, milliseconds. */
export const REJOIN_MS = 10_000;

const NOTHING = new Uint8Array();

/** `Leg.Dead` and `Phase.Closed` of core/flow/connection.ts. */
const LEG_DEAD = 4;
const PHASE_CLOSED = 5;

/** Where a service's log is; plain data, it crosses to the workers. */
export interface DiskLogOptions {
  /** Directory of the segments. */
  path: string;
  /** Octets after which a segment ends; SEGMENT_OCTETS if not given. */
  segmentOctets?: number;
  /** How much longer than needed the log may be, octets; SLACK_OCTETS if not given. */
  slackOctets?: number;
  /** Memory of the ring, of {@linkcode newRing}. */
  ring: SharedArrayBuffer;
  /** Readable when something was stored. */
  eventFd: number;
}

/** What was found at the start. */
export interface FoundLog {
  /** Connections that go on. */
  connections: number;
  /** Connections that do not: since they were logged, `log.limit`, `memory` or `max_connections` fell. */
  failed: number;
  /** Messages that were read. */
  records: number;
  /** Octets of all segments. */
  octets: number;
  /** Octets at the end that a crash had left unfinished. */
  cutOctets: number;
}

/** The log of one service. */
export class DiskLog {
  /** Readable when something was stored; to be polled. */
  readonly fd: number;
  readonly #core: Core;
  readonly #ring: Ring;
  readonly #logLimit: number;
  readonly #segmentOctets: number;
  readonly #slackOctets: number;
  /** What the core can keep of all connections. */
  readonly #memoryOctets: number;
  /** Connections that began before this segment are being told again; null for none. */
  #tellBelow: number | null = null;
  /** All of them were told, but for their progress, which is in the next message. */
  #isTold = false;
  /** The message that has the last of it, until it is durable. */
  #toldSeq: number | null = null;
  #oldest = 1;
  #segment = 1;
  /** Octets of the present segment. */
  #octets = 0;
  #stored = 0;
  #lost = 0;
  /** When the log was given up; null while it is kept. */
  #lostAtMs: number | null = null;

  /** `logLimit`: octets that are kept of one connection. */
  constructor(
    core: Core,
    options: Omit<DiskLogOptions, "path">,
    logLimit: number,
  ) {
    const { ring, eventFd, segmentOctets = SEGMENT_OCTETS, slackOctets = SLACK_OCTETS } = options;
    this.fd = eventFd;
    this.#segmentOctets = segmentOctets;
    this.#slackOctets = slackOctets;
    this.#memoryOctets = core.wasm.blockOctetsFree();
    this.#core = core;
    this.#ring = new Ring(ring, eventFd);
    this.#logLimit = logLimit;
  }

  /**
   * Brings the core to where the log ends, in the role of a standby, and lets the writer go on from
   * there.
   *
   * @param now The time by the core's clock and by the wall's, milliseconds.
   * @throws {LogStoreError} When the log is damaged or another service's.
   */
  recover(files: LogFiles, owner: LogOwner, now: { nowMs: number; wallMs: number }): FoundLog {
    const { wasm, bytes } = this.#core;
    const inbox = wasm.inbox();
    wasm.setPeerLogLimit(this.#logLimit);
    wasm.setRole(CoreRole.standby);
    const found = recover(files, owner, ({ seq, wallMs, body }, segment) => {
      // As if it had been heard when it was said: clocks go on, and so do ages.
      const ageMs = Math.max(0, now.wallMs - wallMs);
      wasm.begin((now.nowMs - ageMs) >>> 0);
      wasm.setSegment(segment);
      bytes.set(body, inbox);
      const trouble = wasm.apply(inbox, body.length);
      if (trouble === 0) return;
      throw new LogStoreError(
        `Cannot use the log of ${owner.service}: in message ${seq}, a record at octet ` +
          `${trouble - 1} is not well formed`,
      );
    });
    wasm.begin(now.nowMs >>> 0);
    // What a standby would report, nobody is there to hear.
    wasm.sealed();
    this.#oldest = found.segments[0] ?? found.nextSegment;
    this.#segment = found.nextSegment;
    wasm.setSegment(this.#segment);
    this.#ring.start({ ...found, oldest: this.#oldest });
    const { records, octets, cutOctets } = found;
    return { ...this.#countConnections(), records, octets, cutOctets };
  }

  #countConnections(): Pick<FoundLog, "connections" | "failed"> {
    const { wasm, view, offsets } = this.#core;
    const counts = { connections: 0, failed: 0 };
    for (let i = 0; i < wasm.highWater(); i++) {
      const at = wasm.recordAt(i);
      if (at === 0) continue;
      if (view.getUint32(at + offsets.leg, true) >= LEG_DEAD) counts.failed++;
      else if (view.getUint32(at + offsets.phase, true) < PHASE_CLOSED) counts.connections++;
    }
    return counts;
  }

  /** True when no more should be read from clients and servers. */
  get isCongested(): boolean {
    return this.#lostAtMs === null && this.#ring.isCongested;
  }

  /** The descriptor is readable. */
  clearEvent(): void {
    this.#ring.clearEvent();
  }

  /**
   * Hears what became durable.
   *
   * @returns "lost" when the log was given up since the last call, "moved" when something was stored.
   */
  take(nowMs: number): "lost" | "moved" | null {
    const { wasm } = this.#core;
    const { lost, stored } = this.#ring;
    if (lost !== this.#lost) {
      this.#lost = lost;
      this.#lostAtMs = nowMs;
      this.#tellBelow = null;
      this.#isTold = false;
      this.#toldSeq = null;
      wasm.storeLost();
      return "lost";
    }
    if (this.#lostAtMs !== null) {
      if (nowMs - this.#lostAtMs > REJOIN_MS) this.#rejoin();
      return null;
    }
    if (stored === this.#stored) return null;
    this.#stored = stored;
    wasm.committed(stored);
    if (this.#toldSeq !== null && ((stored - this.#toldSeq) | 0) >= 0) {
      this.#toldSeq = null;
      wasm.endJoining();
    }
    return "moved";
  }

  /** Hands the core's message to the writer, unless there is no room: then it stays in the core. */
  send(epoch: number, wallMs: number): void {
    const { wasm, bytes } = this.#core;
    const isComplete = this.#isTold && wasm.dirty() === 0;
    if (this.#tellBelow !== null && !this.#isTold && !this.isCongested) {
      this.#isTold = wasm.tellAgain(this.#tellBelow, TELL_OCTETS) === 0;
    }
    const length = wasm.bodyLength();
    if (length === 0) return;
    const body = bytes.subarray(wasm.body(), wasm.body() + length);
    const seq = wasm.messageSeq();
    const isPut = this.#lostAtMs !== null || this.#ring.put({
      kind: Entry.message,
      seq,
      epoch,
      segment: this.#segment,
      urgent: wasm.isInputCommitted() === 0,
      wallMs,
      body,
    });
    if (!isPut) return;
    wasm.sealed();
    this.#octets += recordOctets(length);
    if (isComplete) {
      this.#tellBelow = null;
      this.#isTold = false;
      this.#toldSeq = seq;
      this.#tidy();
    }
    if (this.#octets > this.#segmentOctets) this.#nextSegment();
  }

  /** For people. */
  status(): DiskLogStatus {
    return {
      segments: this.#segment - this.#oldest + 1,
      waitingOctets: this.#ring.waiting,
      state: this.#lostAtMs !== null ? "lost" : this.#ring.isFull ? "full" : "storing",
    };
  }

  #nextSegment(): void {
    const { wasm } = this.#core;
    this.#segment++;
    this.#octets = 0;
    wasm.setSegment(this.#segment);
    if (this.#tellBelow === null) this.#tidy();
  }

  /** Gives up old segments that nobody needs; when they are too many, sees to it that nobody does. */
  #tidy(): void {
    const { wasm } = this.#core;
    const needed = Math.min(wasm.oldestTold() >>> 0, this.#segment);
    if (needed > this.#oldest && this.#command(Entry.remove, needed)) this.#oldest = needed;
    const octets = (this.#segment - this.#oldest) * this.#segmentOctets;
    const kept = this.#memoryOctets - wasm.blockOctetsFree();
    if (octets > 2 * kept + this.#slackOctets) this.#tellBelow = this.#segment;
  }

  /** The disk may take a log again: new connections are protected, those that live once they are told. */
  #rejoin(): void {
    const { wasm } = this.#core;
    if (!this.#command(Entry.restart, this.#segment)) return;
    this.#lostAtMs = null;
    this.#stored = this.#ring.stored;
    this.#oldest = this.#segment + 1;
    this.#nextSegment();
    wasm.standbyJoined(this.#logLimit);
    this.#tellBelow = 0;
  }

  #command(kind: number, segment: number): boolean {
    return this.#ring.put({
      kind,
      seq: 0,
      epoch: 0,
      segment,
      urgent: false,
      wallMs: 0,
      body: NOTHING,
    });
  }
}
