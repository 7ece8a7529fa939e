/**
 * disk_log.ts - the data plane's side of a log on disk: a keeper that only stores
 *
 * Theory of operation
 * What a standby in log mode is told goes to the disk as well: the messages go into the ring (ring.ts) to the
 * thread that stores them (storing.ts), and `storedSeq` says which are durable. A primary puts its own
 * messages there, and lets out what waits for them once all keepers have them (protocol/keepers.ts). A
 * standby puts those that it has applied, and confirms what is durable. When the daemon starts it applies
 * all that is stored to its core, as a standby does; whether it may go on from that, `replica.ts` decides.
 *
 *   primary  core ──message──> ring ──> writer: fdatasync      start:  segments ──bodies──> core
 *             ^ committed <── keepers <──── stored ─┘
 *   standby  channel ──message──> core, ring ──> writer ──stored──> confirmed to the primary
 *
 * Each message is stored with the term that the log is whole in (record.ts). It is whole in none while it lacks
 * connections that live: after a disk that had failed takes a log again (`rejoins`), and on a standby until the
 * primary has told it everything. `beginAnew()` removes all, before a standby tells a primary that it
 * has nothing.
 *
 * Segments are told apart here: the core notes in which one each connection's OPEN lies. At the end of
 * a segment those before the oldest that is still needed are given up. When the log of a primary has become
 * twice as long as what the core keeps, connections that began in old segments are told again, a piece
 * with each message (core/segment/telling.ts), so that those can go too, here and at the standby.
 *
 * A log that cannot be written is given up (storing.ts): this disk keeps nothing from then on. A primary
 * begins it anew after REJOIN_MS, if the disk takes it, and tells it of the connections that live; a standby
 * does when it joins the next time.
 *
 * Limits: a segment ends with the message that takes it beyond SEGMENT_OCTETS. While more than half of the
 * ring waits, nothing should be read from clients, servers or a primary (`isCongested`): a slow disk slows
 * them.
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
/** A log that was given up is begun anew after so long, milliseconds, by a primary. */
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
  /** The term that it is whole in; 0 for none. */
  term: number;
  /** Connections that do not: since they were logged, `log.limit`, `memory` or `max_connections` fell. */
  failed: number;
  /** Messages that were read. */
  records: number;
  /** Octets of all segments. */
  octets: number;
  /** Octets at the end that a crash had left unfinished. */
  cutOctets: number;
}

/** A message that is to be stored. */
export interface DiskMessage {
  /** Its number, by the core that has made it. */
  seq: number;
  /** Something waits until it is stored. */
  urgent: boolean;
  /** What the core tells, or was told. */
  body: Uint8Array;
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
  /** The messages are our core's, which can tell again. */
  #leads = false;
  /** Entries of kind `source` that were put; before the first message of a source one is due. */
  #sources = 0;
  #isSourceDue = true;
  /** Term that the last entry says. */
  #term = 0;
  /** It tells of all connections that the core has. */
  #isWhole = true;
  /** Nothing was put since it was begun anew: neither a message nor a term. */
  #isAnew = false;
  /** Entries of kind `clear` that were put. */
  #clears = 0;
  /** Connections that began before this segment are being told again; null for none. */
  #tellBelow: number | null = null;
  /** Segment where the last telling began. */
  #toldFrom = 0;
  /** All of them were told, but for their progress, which is in the next message. */
  #isTold = false;
  /** The message that has the last of it, until it is durable. */
  #toldSeq: number | null = null;
  #oldest = 1;
  #segment = 1;
  /** Octets of the present segment. */
  #octets = 0;
  #stored: number | null = null;
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
    this.#memoryOctets = core.wasm.blockOctetsFree() >>> 0;
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
    const found = recover(files, owner, ({ seq, epoch, wallMs, body }, segment) => {
      // As if it had been heard when it was said: clocks go on, and so do ages.
      const ageMs = Math.max(0, now.wallMs - wallMs);
      wasm.begin((now.nowMs - ageMs) >>> 0);
      wasm.setSegment(segment);
      bytes.set(body, inbox);
      this.#term = epoch;
      const trouble = wasm.apply(inbox, body.length);
      if (trouble === 0) return;
      throw new LogStoreError(
        `Cannot use the log of ${owner.service}: in message ${seq}, a record at octet ` +
          `${trouble - 1} is not well formed`,
      );
    });
    wasm.begin(now.nowMs >>> 0);
    // What a standby would report, nobody is there to hear.
    wasm.takeAckDue();
    wasm.sealed();
    this.#oldest = found.segments[0] ?? found.nextSegment;
    this.#segment = found.nextSegment;
    wasm.setSegment(this.#segment);
    this.#ring.start({ ...found, oldest: this.#oldest });
    const { records, octets, cutOctets } = found;
    return { ...this.#countConnections(), term: this.#term, records, octets, cutOctets };
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

  /** True when no more should be read from clients, servers or a primary. */
  get isCongested(): boolean {
    return this.#lostAtMs === null && this.#ring.isCongested;
  }

  /** The descriptor is readable. */
  clearEvent(): void {
    this.#ring.clearEvent();
  }

  /** True while it stores all that it is given, and lacks nothing that was said before. */
  get keepsAll(): boolean {
    return this.#lostAtMs === null && this.#isWhole;
  }

  /** True when the log was given up. */
  get isLost(): boolean {
    return this.#lostAtMs !== null;
  }

  /** Number of the last message that is durable, of those that are put now; null for none. */
  get storedSeq(): number | null {
    return this.#stored;
  }

  /**
   * Hears what became durable.
   *
   * @returns "lost" when the log was given up since the last call, "moved" when something was stored,
   * "rejoins" when it keeps messages from the next one on, and is told of what lives.
   */
  take(nowMs: number): "lost" | "moved" | "rejoins" | null {
    const { lost } = this.#ring;
    if (lost !== this.#lost) {
      this.#lost = lost;
      this.#lostAtMs = nowMs;
      this.#stopTelling();
      this.#isWhole = false;
      this.#term = 0;
      return "lost";
    }
    if (this.#leads && !this.#isWhole && !this.#isTelling) {
      const isDue = this.#lostAtMs === null || nowMs - this.#lostAtMs > REJOIN_MS;
      if (isDue && this.#rejoin()) return "rejoins";
    }
    // In this order: ring.ts.
    if (this.#lostAtMs !== null || this.#ring.sources !== this.#sources) return null;
    const { stored } = this.#ring;
    if (this.#isSourceDue || stored === this.#stored) return null;
    this.#stored = stored;
    if (this.#toldSeq !== null && ((stored - this.#toldSeq) | 0) >= 0) {
      this.#toldSeq = null;
      this.#isWhole = true;
      this.#core.wasm.endJoining();
    }
    return "moved";
  }

  /** From now on the messages are our core's (`leads`), or those that a primary sends. */
  changeSource(leads: boolean): void {
    this.#leads = leads;
    this.#isSourceDue = true;
    this.#stored = null;
    this.#stopTelling();
  }

  /** What is put from now on is whole in `term`, if the log is; 0 for in none. */
  setTerm(term: number): void {
    const now = this.#isWhole ? term : 0;
    if (now === this.#term || this.#lostAtMs !== null) return;
    if (!this.#command(Entry.term, { epoch: now })) return;
    this.#term = now;
    // A log without connections that is whole in a term says more than none.
    if (now !== 0) this.#isAnew = false;
  }

  /**
   * Hands a message to the writer.
   *
   * @returns False when there is no room for it: it was not taken.
   */
  put({ seq, urgent, body }: DiskMessage, wallMs: number): boolean {
    if (this.#lostAtMs !== null) return true;
    if (this.#isSourceDue) {
      if (!this.#command(Entry.source, { seq: seq - 1 })) return false;
      this.#isSourceDue = false;
      this.#sources = (this.#sources + 1) >>> 0;
    }
    // What was told is complete with the progress that follows it.
    const isComplete = this.#isTold && this.#core.wasm.dirty() === 0;
    const isPut = this.#ring.put({
      kind: Entry.message,
      seq,
      epoch: this.#term,
      segment: this.#segment,
      urgent,
      wallMs,
      body,
    });
    if (!isPut) return false;
    this.#isAnew = false;
    this.#octets += recordOctets(body.length);
    if (isComplete) {
      this.#tellBelow = null;
      this.#isTold = false;
      this.#toldSeq = seq;
      this.#tidy();
    }
    if (this.#octets > this.#segmentOctets) this.#nextSegment();
    return true;
  }

  /** Connections that began before this segment are to be told again, in pieces; 0 for none. */
  get tellBelow(): number {
    return this.#isTold ? 0 : this.#tellBelow ?? 0;
  }

  /** All of them were told. */
  noteTold(): void {
    this.#isTold = this.#tellBelow !== null;
  }

  /**
   * All that is on the disk goes: what is put from now on belongs to no term until it is whole again. Nobody
   * is to be told that it is gone before `isClear`.
   */
  beginAnew(): void {
    if (this.#isAnew) return;
    this.#stopTelling();
    this.#isWhole = false;
    if (this.#lostAtMs !== null) {
      if (!this.#command(Entry.restart)) return;
      this.#lostAtMs = null;
    } else {
      // Room for one entry is nearly always there for the next one too; else both are put once more.
      if (!this.#command(Entry.term) || !this.#command(Entry.clear)) return;
      this.#clears = (this.#clears + 1) >>> 0;
    }
    this.#term = 0;
    this.#isAnew = true;
    this.#oldest = this.#segment + 1;
    this.#nextSegment();
  }

  /** It was begun anew, and nothing of what was there can come back. */
  get isClear(): boolean {
    return this.#isAnew && (this.#lostAtMs !== null || this.#ring.clears === this.#clears);
  }

  /** The core has forgotten all connections: a log that was begun anew lacks none. */
  noteForgotten(): void {
    this.#isWhole = this.#isAnew && this.#lostAtMs === null;
  }

  /** For people. */
  status(): DiskLogStatus {
    return {
      segments: this.#segment - this.#oldest + 1,
      waitingOctets: this.#ring.waiting,
      state: this.#lostAtMs !== null ? "lost" : this.#ring.isFull ? "full" : "storing",
      epoch: this.#term === 0 ? null : this.#term,
    };
  }

  get #isTelling(): boolean {
    return this.#tellBelow !== null || this.#toldSeq !== null;
  }

  #stopTelling(): void {
    this.#tellBelow = null;
    this.#isTold = false;
    this.#toldSeq = null;
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
    if (needed > this.#oldest && this.#command(Entry.remove, { segment: needed })) {
      this.#oldest = needed;
    }
    // What a standby is being told goes to the disk too; who tells it goes by its own segments.
    if (!this.#leads || wasm.bringing() !== 0) return;
    // Of the segments before the last time some may be kept by connections that are over: telling again
    // does not help there, and time does.
    const since = Math.max(this.#oldest, this.#toldFrom);
    const octets = (this.#segment - since) * this.#segmentOctets;
    const kept = this.#memoryOctets - (wasm.blockOctetsFree() >>> 0);
    if (octets <= 2 * kept + this.#slackOctets) return;
    this.#tellBelow = this.#segment;
    this.#toldFrom = this.#segment;
  }

  /** The disk may take a log again: it keeps what is said from now on, and what lives once that is told. */
  #rejoin(): boolean {
    this.beginAnew();
    if (!this.#isAnew) return false;
    this.#isSourceDue = true;
    this.#stored = null;
    this.#tellBelow = this.#segment;
    return true;
  }

  #command(kind: number, what: { seq?: number; epoch?: number; segment?: number } = {}): boolean {
    const { seq = 0, epoch = 0, segment = this.#segment } = what;
    return this.#ring.put({
      kind,
      seq,
      epoch,
      segment,
      urgent: false,
      wallMs: 0,
      body: NOTHING,
    });
  }
}
