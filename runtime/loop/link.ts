/**
 * link.ts - one path to a peer: its sockets, and how its beats travel
 *
 * Theory of operation
 * A link has a UDP socket for beats and a listener for the peer's channels, both bound to our end. It
 * remembers when its last BEATS_KEPT beats were sent, so that an echo tells the round trip, smoothed as
 * RFC 6298 does (1/8), and proves that the peer has heard us since then.
 */
import { libc } from "../io/libc.ts";
import { bindUdp, type Endpoint, listenTcp, parseHostPort } from "../io/socket.ts";
import type { LinkProgress } from "../protocol/links.ts";
import type { Beat } from "../protocol/message.ts";
import type { BeatSeal } from "../seal.ts";

/** Sent beats whose time is remembered for the round trip. */
const BEATS_KEPT = 64;

/** One path to a peer. */
export class Link implements LinkProgress {
  /** Name of the peer. */
  readonly peer: string;
  /** Our end. */
  readonly local: Endpoint;
  /** The peer's. */
  readonly remote: Endpoint;
  /** Both as configured. */
  readonly text: { local: string; remote: string };
  /** Socket of the beats. */
  readonly udp: number;
  /** Where the peer's channels arrive. */
  readonly listener: number;
  /** What protects the beats; null for plain text. */
  readonly seal: BeatSeal | null;
  /** When the peer was heard last, milliseconds; null for never. */
  heardMs: number | null = null;
  /** Which life of the peer that was. */
  life: number | null = null;
  /** Number of the beat that was heard last, which ours echo. */
  heardSeq = 0;
  /** When it came, milliseconds. */
  heardAtMs = 0;
  /** The newest of our beats that the peer has echoed here; null for none. */
  echoedSeq: number | null = null;
  /** When that one was sent, milliseconds. */
  provenMs: number = -Infinity;
  /** Smoothed round trip, microseconds; null before the first. */
  rttUs: number | null = null;
  readonly #sentMs = new Float64Array(BEATS_KEPT);

  /** Opens its sockets; throws when an address is not ours. */
  constructor(peer: string, text: { local: string; remote: string }, seal: BeatSeal | null) {
    this.peer = peer;
    this.text = text;
    this.seal = seal;
    this.local = parseHostPort(text.local);
    this.remote = parseHostPort(text.remote);
    this.udp = bindUdp(this.local, { remote: this.remote });
    this.listener = listenTcp(this.local);
  }

  /** Remembers when a beat left. */
  noteSent(seq: number, nowMs: number): void {
    this.#sentMs[seq % BEATS_KEPT] = nowMs;
  }

  /** Returns when the beat was sent that this one echoes; null when that is not known. */
  noteHeard(beat: Beat, nowMs: number, lastSeq: number): number | null {
    this.heardMs = nowMs;
    this.life = beat.incarnation;
    this.heardSeq = beat.seq;
    this.heardAtMs = nowMs;
    const sentMs = this.#sentMs[beat.echoSeq % BEATS_KEPT];
    if (((lastSeq - beat.echoSeq) >>> 0) >= BEATS_KEPT || sentMs === 0) return null;
    this.echoedSeq = beat.echoSeq;
    this.provenMs = sentMs;
    const rttUs = (nowMs - sentMs) * 1000 - beat.echoDelayUs;
    if (rttUs >= 0 && rttUs <= 10_000_000) {
      this.rttUs = this.rttUs === null ? rttUs : this.rttUs + (rttUs - this.rttUs) / 8;
    }
    return sentMs;
  }

  /** Closes its sockets. */
  close(): void {
    libc.close(this.udp);
    libc.close(this.listener);
    this.seal?.close();
  }
}
