/**
 * stream.ts - the TCP connection between two daemons, simulated
 *
 * Theory of operation
 * Frames arrive whole and in order, however late. While a direction is cut or clogged they wait, as
 * TCP repeats them; what the other kernel does not take waits in the sender's, and past that in the
 * daemon's backlog (channel.ts). A daemon that ends closes its ends; a host that ends says nothing, and
 * after its restart answers with a reset. What the receiving kernel holds can be read after the
 * other side is gone: that is what a takeover drains.
 *
 *   send() -> backlog -> flight (SOCKET_OCTETS) -> inbox of the other end -> receive()
 */
import type { Clock } from "./clock.ts";

/** Octets that kernels keep on the way, one direction. */
const SOCKET_OCTETS = 64 << 10;
/** TCP tries again so much later. */
const RETRY_MS = 20;

/** What the connection's network is like at this moment. */
export interface Path {
  /** Nothing passes in this direction now. */
  isCut(from: string, to: string): boolean;
  /** Time on the way, milliseconds. */
  delayMs(): number;
  /** What runs at a host: nothing, its kernel alone, or the daemon of a certain life. */
  lifeOf(host: string): number | "kernel" | "off";
}

/** One end. */
export class End {
  /** The other one. */
  peer!: End;
  /** The handshake is over. */
  connected = false;
  /** Both sides have greeted each other. */
  open = false;
  /** This side has closed it. */
  closed = false;
  /** Why nothing can be received any more, once the inbox is empty; null while it stands. */
  broken: string | null = null;
  /** Epoch at the greeting. */
  epoch = 0;
  /** Number of the last message applied, and what the peer was told of it. */
  applied = 0;
  /** What the peer was told of it. */
  acknowledged = 0;
  /** Since when the backlog waits, the daemon's clock; null without one. */
  stalledSinceMs: number | null = null;
  /** When it was made, the daemon's clock. */
  readonly sinceMs: number;
  /** Whose it is. */
  readonly host: string;
  /** Which life of that host. */
  readonly life: number;
  /** Called when there is something to receive or to send. */
  readonly wake: () => void;
  /** Frames that have arrived. */
  readonly inbox: Uint8Array[] = [];
  readonly #backlog: Uint8Array[] = [];
  readonly #flight: { frame: Uint8Array | null; dueMs: number }[] = [];
  #flightOctets = 0;
  #isMoving = false;
  readonly #clock: Clock;
  readonly #path: Path;

  /** Makes one end; `pair()` makes both. */
  constructor(
    whose: { host: string; life: number; sinceMs: number; wake: () => void },
    { clock, path }: { clock: Clock; path: Path },
  ) {
    this.host = whose.host;
    this.life = whose.life;
    this.sinceMs = whose.sinceMs;
    this.wake = whose.wake;
    this.#clock = clock;
    this.#path = path;
  }

  /** Octets that wait in the daemon. */
  get backlogOctets(): number {
    return this.#backlog.reduce((sum, frame) => sum + frame.length, 0);
  }

  /** Sends a frame, now or as soon as the kernel takes it. */
  send(frame: Uint8Array, nowMs: number): void {
    if (this.closed) return;
    if (this.#backlog.length > 0 || this.#flightOctets + frame.length > SOCKET_OCTETS) {
      this.stalledSinceMs ??= nowMs;
      this.#backlog.push(frame);
    } else this.#launch(frame);
  }

  /** Sends from the backlog what the kernel takes. */
  flush(nowMs: number): void {
    while (this.#backlog.length > 0) {
      if (this.#flightOctets > 0 && this.#flightOctets + this.#backlog[0].length > SOCKET_OCTETS) {
        return;
      }
      this.#launch(this.#backlog.shift()!);
      this.stalledSinceMs = nowMs;
    }
    this.stalledSinceMs = null;
  }

  /** Closes this end; what the kernel has still arrives, then its end. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.open = false;
    this.#backlog.length = 0;
    this.#launch(null);
  }

  #launch(frame: Uint8Array | null): void {
    const lastMs = this.#flight.at(-1)?.dueMs ?? 0;
    const dueMs = Math.max(lastMs, this.#clock.nowMs + this.#path.delayMs());
    this.#flight.push({ frame, dueMs });
    this.#flightOctets += frame?.length ?? 0;
    this.#move();
  }

  #move(): void {
    if (this.#isMoving || this.#flight.length === 0) return;
    this.#isMoving = true;
    this.#clock.after(this.#flight[0].dueMs - this.#clock.nowMs, () => this.#arrive());
  }

  #arrive(): void {
    this.#isMoving = false;
    const { peer } = this;
    const [{ frame }] = this.#flight;
    const own = this.#path.lifeOf(this.host);
    const there = this.#path.lifeOf(peer.host);
    // A host that is off repeats nothing, and its next life knows nothing of it.
    if (own === "off" || (own !== "kernel" && own > this.life && !this.closed)) return;
    const full = peer.inbox.reduce((sum, { length }) => sum + length, 0) > SOCKET_OCTETS;
    if (this.#path.isCut(this.host, peer.host) || there === "off" || full) {
      this.#flight[0].dueMs = this.#clock.nowMs + RETRY_MS;
      return this.#move();
    }
    this.#flight.shift();
    this.#flightOctets -= frame?.length ?? 0;
    if (there !== peer.life || peer.closed) {
      // Nobody has it open there: a reset.
      if (frame !== null) {
        this.#clock.after(this.#path.delayMs(), () => this.#breakOff("was reset"));
      }
    } else {
      if (frame === null) peer.broken ??= "the peer closed the channel";
      else peer.inbox.push(frame);
      peer.wake();
    }
    if (this.stalledSinceMs !== null) this.wake();
    this.#move();
  }

  #breakOff(why: string): void {
    if (this.closed || this.#path.isCut(this.peer.host, this.host)) return;
    this.broken ??= why;
    this.wake();
  }
}
