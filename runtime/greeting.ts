/**
 * greeting.ts - a connection of which nobody knows yet whose it is
 *
 * Theory of operation
 * Who connects says hello, or resume: which node it is, and for which service. With keys, each side first says a
 * nonce, and the hello comes as a sealed record (seal.ts), so only the peer can have sent it, and only
 * on this connection. Nothing else is done for a stranger: octets are collected until there is a hello.
 *
 *   plain    hello frame ............................ done
 *   sealed   nonce (ours goes out at once) ── sealed hello ── done
 *
 * Limits: GREETING_MAX octets; the owner limits time and number.
 */
import { Errno, errno, libc, Memory } from "./io/libc.ts";
import { MSG_NOSIGNAL } from "./io/socket.ts";
import { decodeFrame, type Frame, MessageError } from "./protocol/message.ts";
import { NONCE_LENGTH, type Place, placeOf, RECORD_HEADER, type StreamSeal } from "./seal.ts";

/** Octets of the longest greeting. */
export const GREETING_MAX = 2048;

/** The frame that begins a channel, or goes on with one. */
export type Hello = Frame & { kind: "hello" | "resume" };

/** An accepted connection before its hello. */
export class Greeting {
  /** Descriptor; the owner closes it. */
  readonly fd: number;
  /** Whose link it came over. */
  readonly peer: string;
  /** When it was accepted, milliseconds of the loop's clock. */
  readonly sinceMs: number;
  /** What seals the connection; null for plain text. */
  readonly seal: StreamSeal | null;
  readonly #memory = new Memory(GREETING_MAX);
  readonly #place: Place;
  #fill = 0;

  /** Takes an accepted connection, and says our nonce if it is to be sealed. */
  constructor(fd: number, options: { peer: string; seal: StreamSeal | null; nowMs: number }) {
    this.fd = fd;
    this.peer = options.peer;
    this.sinceMs = options.nowMs;
    this.seal = options.seal;
    this.#place = placeOf(this.#memory.bytes);
    if (this.seal === null) return;
    // A fresh socket has room; should it fail, the greeting does not come about in time.
    const nonce = Memory.of(this.seal.nonce);
    libc.send(fd, nonce.address, NONCE_LENGTH, MSG_NOSIGNAL);
  }

  /**
   * Receives what there is.
   *
   * @returns The hello; null while it is not all there.
   * @throws {MessageError} When this is no greeting of a peer.
   */
  receive(): Hello | null {
    const room = GREETING_MAX - this.#fill;
    const length = libc.recv(this.fd, this.#memory.address + BigInt(this.#fill), room, 0);
    if (length < 0 && (errno() === Errno.EAGAIN || errno() === Errno.EINTR)) return null;
    if (length <= 0) throw new MessageError("it ended before a hello");
    this.#fill += length;
    const { bytes } = this.#memory;
    const start = this.seal === null ? 0 : this.#unseal(this.seal);
    if (start === null || this.#fill < start + 2) return null;
    const envelopeLength = (bytes[start] << 8) | bytes[start + 1];
    const end = start + 2 + envelopeLength;
    if (end > GREETING_MAX) throw new MessageError(`its hello has ${envelopeLength} octets`);
    if (this.#fill < end) return null;
    const hello = decodeFrame(bytes.slice(start + 2, end));
    if (hello.kind !== "hello" && hello.kind !== "resume") {
      throw new MessageError(`first frame is ${hello.kind}`);
    }
    if (this.#fill !== end) throw new MessageError("octets follow the hello");
    return hello;
  }

  /** Where the opened text of the first record begins; null while it is not all there. */
  #unseal(seal: StreamSeal): number | null {
    const start = NONCE_LENGTH + RECORD_HEADER;
    const { bytes } = this.#memory;
    if (!seal.isMet && this.#fill >= NONCE_LENGTH) seal.meet(bytes.slice(0, NONCE_LENGTH));
    if (this.#fill < start) return null;
    const length = seal.textLength(bytes, NONCE_LENGTH);
    if (start + length > GREETING_MAX) throw new MessageError(`its hello has ${length} octets`);
    if (this.#fill < start + length) return null;
    const why = seal.open({
      bytes,
      at: NONCE_LENGTH,
      address: this.#place.address + BigInt(NONCE_LENGTH),
    });
    if (why !== null) throw new MessageError(why);
    return start;
  }
}
