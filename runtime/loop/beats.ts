/**
 * beats.ts - says on every link that this thread is alive, and hears peers say so
 *
 * Theory of operation
 * A beat leaves every `heartbeatMs` on each link, and at once in answer to one that was heard a while
 * after ours: the peer's lease rests on our echo of its beat. Beats carry what the replicas of all
 * services say (protocol/message.ts); which of them are news, protocol/peer_life.ts knows.
 */
import { libc, Memory } from "../io/libc.ts";
import { type Beat, BEAT_MAX, decodeBeat, encodeBeat, MessageError } from "../protocol/message.ts";
import { type Novelty, PeerLife } from "../protocol/peer_life.ts";
import type { Refusals } from "../refusals.ts";
import { BEAT_HEADER, placeOf } from "../seal.ts";
import type { Link } from "./link.ts";
import type { LoopOptions } from "./messages.ts";
import type { Service } from "./service.ts";

const DATAGRAM_MAX = BEAT_MAX + BEAT_HEADER;
/** Datagrams that are read from a link in a pass. */
const DATAGRAMS_MAX = 256;

/** A beat that has come. */
export interface HeardBeat {
  /** It. */
  beat: Beat;
  /** When it was heard, milliseconds. */
  nowMs: number;
  /** When the beat was sent that it echoes; null when that is not known. */
  echoedMs: number | null;
  /** What it adds to those before it. */
  novelty: Novelty;
}

/** What beats are sent for. */
export interface BeatsOptions {
  /** The loop's. */
  loop: LoopOptions;
  /** This life of the node. */
  incarnation: number;
  /** Number of the beat before the first: anything, so that nobody takes echoes of a former life for ours. */
  seq: number;
  /** Where they go. */
  links: readonly Link[];
  /** What they tell of. */
  services: readonly Service[];
  /** Counts what is not the peer's. */
  refusals: Refusals;
}

/** The beats of a node. */
export class Beats {
  readonly #options: LoopOptions;
  readonly #links: readonly Link[];
  readonly #services: readonly Service[];
  readonly #refusals: Refusals;
  readonly #incarnation: number;
  readonly #datagram = new Memory(DATAGRAM_MAX);
  readonly #datagramPlace = placeOf(this.#datagram.bytes);
  readonly #beatOut = new Memory(DATAGRAM_MAX);
  readonly #beatPlace = placeOf(this.#beatOut.bytes);
  #beatSeq: number;
  #nextBeatMs = 0;
  #lastBeatMs = 0;
  readonly #peerLives = new Map<string, PeerLife>();

  /** Sends nothing yet. */
  constructor({ loop, incarnation, seq, links, services, refusals }: BeatsOptions) {
    this.#options = loop;
    this.#incarnation = incarnation;
    this.#beatSeq = seq;
    this.#links = links;
    this.#services = services;
    this.#refusals = refusals;
    for (const { name } of loop.peers) this.#peerLives.set(name, new PeerLife());
  }

  /** When the next one is due, milliseconds. */
  get nextMs(): number {
    return this.#nextBeatMs;
  }

  /** Between the parts of a pass too: a long pass is work, not silence. */
  sendIfDue(): void {
    const nowMs = performance.now();
    if (nowMs < this.#nextBeatMs) return;
    this.#nextBeatMs = Math.max(this.#nextBeatMs + this.#options.heartbeatMs, nowMs);
    this.#send(nowMs);
  }

  #send(nowMs: number): void {
    if (this.#links.length === 0) return;
    this.#beatSeq = (this.#beatSeq + 1) >>> 0;
    this.#lastBeatMs = nowMs;
    const services = this.#services.map((s) => ({
      name: s.options.name,
      role: s.replica.role,
      epoch: s.replica.epoch,
      ready: s.isReady,
      asking: s.replica.asking,
      voided: s.replica.voided,
      invites: false,
      counted: 0,
    }));
    for (const link of this.#links) {
      for (const [index, { replica }] of this.#services.entries()) {
        services[index].invites = replica.invites(link.peer);
        services[index].counted = replica.counted(link.peer);
      }
      // Before the first agreement nobody could tell that a beat is ours.
      if (link.seal !== null && !link.seal.canSend) continue;
      const bytes = encodeBeat({
        kind: "beat",
        node: this.#options.node,
        incarnation: this.#incarnation,
        seq: this.#beatSeq,
        echoSeq: link.heardSeq,
        echoDelayUs: Math.min(0xffffffff, Math.round((nowMs - link.heardAtMs) * 1000)),
        services,
      });
      this.#beatOut.bytes.set(bytes, link.seal === null ? 0 : BEAT_HEADER);
      const length = link.seal?.seal(this.#beatPlace, bytes.length) ?? bytes.length;
      link.noteSent(this.#beatSeq, nowMs);
      // A link that is down refuses; its silence is noticed on the other side.
      libc.send(link.udp, this.#beatOut.address, length, 0);
    }
  }

  /** Reads a link's beats; `hear` is told of each, copies over other links included. */
  receive(link: Link, hear: (heard: HeardBeat) => void): void {
    let heard = false;
    for (let i = 0; i < DATAGRAMS_MAX; i++) {
      const length = libc.recv(link.udp, this.#datagram.address, DATAGRAM_MAX, 0);
      if (length < 0) break;
      let beat: Beat;
      try {
        beat = this.#open(link, length);
      } catch (error) {
        if (!(error instanceof MessageError)) throw error;
        const fields = { link: link.text.local, why: error.message };
        this.#refusals.note("datagram", fields, performance.now());
        continue;
      }
      // Not the time this pass began: the peer's lease rests on when we have heard it.
      const nowMs = performance.now();
      const echoedMs = link.noteHeard(beat, nowMs, this.#beatSeq);
      heard = true;
      const novelty = this.#peerLives.get(link.peer)!.note(beat, nowMs);
      hear({ beat, nowMs, echoedMs, novelty });
    }
    // An echo at once: the peer's lease is then as long as it can be.
    if (heard && performance.now() - this.#lastBeatMs > this.#options.heartbeatMs / 2) {
      this.#nextBeatMs = 0;
      this.sendIfDue();
    }
  }

  /** The beat in the datagram of `length` octets that was received last; throws MessageError. */
  #open(link: Link, length: number): Beat {
    const why = link.seal?.open(this.#datagramPlace, length) ?? null;
    if (why !== null) throw new MessageError(why);
    const start = link.seal === null ? 0 : BEAT_HEADER;
    const beat = decodeBeat(this.#datagram.bytes.slice(start, length));
    if (beat.node === link.peer) return beat;
    throw new MessageError(`it comes from node "${beat.node}", expected "${link.peer}"`);
  }
}
