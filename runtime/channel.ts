/**
 * channel.ts - the replication channel of one service: frames over one TCP connection
 *
 * Theory of operation
 * Octets are received straight into the core's inbox, and a frame's body is applied where it lies.
 * A body that leaves is sent straight from the core's memory: its envelope is put into the headroom
 * before it, so one send(2) carries both. Only what the socket does not take at once is copied, into
 * a bounded backlog that goes out before anything newer.
 *
 * With a seal (seal.ts) a frame travels as the text of a record, sealed and opened in the same places:
 * the record's header goes into the headroom too.
 *
 *   inbox     | done | start .. fill: whole and partial frames | free |
 *   backlog   | sent | head .. tail | free |
 *
 * Limits: BACKLOG_MAX octets wait at most; the owner stops reading clients at `isCongested` (half of
 * it), so one more frame of the largest size always fits. `stalledSinceMs` tells how long the peer
 * has taken nothing.
 */
import type { Core } from "./core.ts";
import { Errno, errno, libc, Memory } from "./io/libc.ts";
import { MSG_NOSIGNAL } from "./io/socket.ts";
import {
  decodeFrame,
  encodeFrame,
  ENVELOPE_MAX,
  type Frame,
  MessageError,
} from "./protocol/message.ts";
import { NONCE_LENGTH, placeOf, RECORD_HEADER, type StreamSeal } from "./seal.ts";

/** Octets that may wait for the socket. */
export const BACKLOG_MAX = 16 << 20;

/** Octets taken in one pass: what is behind them must not wait long for a beat. */
const RECEIVE_MAX = 1 << 20;

/** A frame without a body, where it can be sealed. */
const small = placeOf(new Memory(RECORD_HEADER + 2 + ENVELOPE_MAX).bytes);

/** One TCP connection to the peer, nonblocking. */
export class Channel {
  /** Descriptor; -1 once closed. */
  fd: number;
  /** The connection stands (connect(2) has finished). */
  connected: boolean;
  /** Both sides have greeted each other. */
  open = false;
  /** Epoch at the greeting; nothing older is taken. */
  epoch = 0;
  /** When it was made, milliseconds of the loop's clock. */
  readonly sinceMs: number;
  /** When the oldest octet of the backlog began to wait; null without a backlog. */
  stalledSinceMs: number | null = null;
  /** Number of the last message whose body was applied here. */
  applied = 0;
  /** What `applied` was when the peer was told last. */
  acknowledged = 0;

  /** Why a frame could not be taken; the channel is of no more use then. */
  refused: string | null = null;

  readonly #seal: StreamSeal | null;
  /** What is said once the other side's nonce is known. */
  #hello: Frame | null = null;
  readonly #core: Core;
  readonly #base: bigint;
  readonly #inbox: number;
  readonly #inboxSize: number;
  #start = 0;
  #fill = 0;
  readonly #backlog = new Memory(BACKLOG_MAX);
  #head = 0;
  #tail = 0;

  /**
   * Wraps `fd`; `base` is the address of the core's memory in this process, `seal` what protects the
   * connection, or null for plain text.
   */
  constructor(
    fd: number,
    options: {
      core: Core;
      base: bigint;
      connected: boolean;
      seal: StreamSeal | null;
      nowMs: number;
    },
  ) {
    this.fd = fd;
    this.#seal = options.seal;
    this.connected = options.connected;
    this.sinceMs = options.nowMs;
    this.#core = options.core;
    this.#base = options.base;
    this.#inbox = options.core.wasm.inbox();
    this.#inboxSize = options.core.wasm.inboxSize();
  }

  /** True while octets wait for the socket. */
  get hasBacklog(): boolean {
    return this.#tail > this.#head;
  }

  /** True when no more clients' packets should be read. */
  get isCongested(): boolean {
    return this.#tail - this.#head > BACKLOG_MAX / 2;
  }

  /**
   * Receives what there is and hands over every whole frame; for data, `body` is its address in the
   * core's memory, valid until the next call.
   *
   * @returns Null, or why the channel is of no more use.
   */
  receive(handle: (frame: Frame, body: number) => void): string | null {
    this.#compact();
    const room = Math.min(this.#inboxSize - this.#fill, RECEIVE_MAX);
    const address = this.#base + BigInt(this.#inbox + this.#fill);
    const length = libc.recv(this.fd, address, room, 0);
    if (length < 0) {
      const reason = errno();
      if (reason === Errno.EAGAIN || reason === Errno.EINTR) return null;
      return `receiving failed with error ${reason}`;
    }
    if (length === 0) return "the peer closed the channel";
    this.#fill += length;
    try {
      this.#parse(handle);
    } catch (error) {
      if (error instanceof MessageError) return this.refused = error.message;
      throw error;
    }
    return null;
  }

  #parse(handle: (frame: Frame, body: number) => void): void {
    const { bytes, wasm } = this.#core;
    while (this.fd >= 0 && this.#fill - this.#start >= 2) {
      if (this.#seal !== null && !this.#openRecord(this.#seal)) return;
      const at = this.#inbox + this.#start;
      const envelopeLength = (bytes[at] << 8) | bytes[at + 1];
      if (envelopeLength === 0 || envelopeLength > ENVELOPE_MAX) {
        throw new MessageError(`Cannot decode a frame: its envelope has ${envelopeLength} octets`);
      }
      const head = 2 + envelopeLength;
      if (this.#fill - this.#start < head) return;
      const frame = decodeFrame(bytes.slice(at + 2, at + head));
      let bodyLength = 0;
      if (frame.kind === "data") {
        bodyLength = frame.bodyLength;
        if (bodyLength > wasm.bodySize()) {
          throw new MessageError(`Cannot decode a frame: its body has ${bodyLength} octets`);
        }
      }
      if (this.#fill - this.#start < head + bodyLength) return;
      this.#start += head + bodyLength;
      handle(frame, at + head);
    }
  }

  /** Opens the record at `#start` and moves to its text; false while it is not all there. */
  #openRecord(seal: StreamSeal): boolean {
    const { bytes, wasm } = this.#core;
    const there = this.#fill - this.#start;
    const at = this.#inbox + this.#start;
    if (!seal.isMet) {
      if (there < NONCE_LENGTH) return false;
      seal.meet(bytes.slice(at, at + NONCE_LENGTH));
      this.#start += NONCE_LENGTH;
      if (this.#hello !== null) this.send(this.#hello, this.sinceMs);
      this.#hello = null;
      return false;
    }
    if (there < RECORD_HEADER) return false;
    const length = seal.textLength(bytes, at);
    if (length < 2 || length > 2 + ENVELOPE_MAX + wasm.bodySize()) {
      throw new MessageError(`Cannot open a record: it has ${length} octets`);
    }
    if (there < RECORD_HEADER + length) return false;
    const why = seal.open({ bytes, at, address: this.#base + BigInt(at) });
    if (why !== null) throw new MessageError(`Cannot open a record: ${why}`);
    this.#start += RECORD_HEADER;
    return true;
  }

  #compact(): void {
    if (this.#start === this.#fill) {
      this.#start = 0;
      this.#fill = 0;
    } else if (this.#start > 0) {
      const from = this.#inbox + this.#start;
      this.#core.bytes.copyWithin(this.#inbox, from, this.#inbox + this.#fill);
      this.#fill -= this.#start;
      this.#start = 0;
    }
  }

  /** Says hello on a connection that this side has opened. */
  greet(hello: Frame, nowMs: number): void {
    if (this.#seal === null) return this.send(hello, nowMs);
    this.#hello = hello;
    this.#queue(this.#seal.nonce, nowMs);
    this.flush(nowMs);
  }

  /** Sends a frame without a body. */
  send(frame: Frame, nowMs: number): void {
    const envelope = encodeFrame(frame);
    const { bytes } = small;
    bytes[RECORD_HEADER] = envelope.length >> 8;
    bytes[RECORD_HEADER + 1] = envelope.length;
    bytes.set(envelope, RECORD_HEADER + 2);
    const length = 2 + envelope.length;
    if (this.#seal !== null && !this.#seal.seal(small, length)) return this.close();
    const start = this.#seal === null ? RECORD_HEADER : 0;
    this.#queue(bytes.subarray(start, RECORD_HEADER + length), nowMs);
    this.flush(nowMs);
  }

  /** Sends the core's message body in `epoch`, and with it what we have applied. */
  sendBody(epoch: number, nowMs: number): void {
    const { bytes, wasm } = this.#core;
    const bodyLength = wasm.bodyLength();
    const seq = wasm.messageSeq() >>> 0;
    const committed = this.applied;
    const envelope = encodeFrame({ kind: "data", epoch, seq, committed, bodyLength });
    this.acknowledged = committed;
    let at = wasm.body() - envelope.length - 2;
    bytes[at] = envelope.length >> 8;
    bytes[at + 1] = envelope.length;
    bytes.set(envelope, at + 2);
    let length = 2 + envelope.length + bodyLength;
    if (this.#seal !== null) {
      at -= RECORD_HEADER;
      const place = { bytes, at, address: this.#base + BigInt(at) };
      if (!this.#seal.seal(place, length)) return this.close();
      length += RECORD_HEADER;
    }
    let sent = 0;
    if (!this.hasBacklog) {
      const result = libc.send(this.fd, this.#base + BigInt(at), length, MSG_NOSIGNAL);
      // An error shows again at the next receive, which reports it.
      if (result > 0) sent = result;
    }
    if (sent < length) this.#queue(bytes.subarray(at + sent, at + length), nowMs);
    wasm.sealed();
  }

  /** Tells the peer what was applied, when it does not know yet. */
  acknowledge(epoch: number, nowMs: number): void {
    if (this.acknowledged === this.applied) return;
    this.acknowledged = this.applied;
    this.send({ kind: "data", epoch, seq: 0, committed: this.applied, bodyLength: 0 }, nowMs);
  }

  #queue(bytes: Uint8Array, nowMs: number): void {
    if (this.#head > 0 && this.#tail + bytes.length > BACKLOG_MAX) {
      this.#backlog.bytes.copyWithin(0, this.#head, this.#tail);
      this.#tail -= this.#head;
      this.#head = 0;
    }
    if (this.#tail + bytes.length > BACKLOG_MAX) {
      // Cannot happen while the owner heeds isCongested; the stream is broken, so end it.
      this.close();
      return;
    }
    if (!this.hasBacklog) this.stalledSinceMs = nowMs;
    this.#backlog.bytes.set(bytes, this.#tail);
    this.#tail += bytes.length;
  }

  /** Sends from the backlog what the socket takes. */
  flush(nowMs: number): void {
    while (this.hasBacklog && this.fd >= 0) {
      const address = this.#backlog.address + BigInt(this.#head);
      const result = libc.send(this.fd, address, this.#tail - this.#head, MSG_NOSIGNAL);
      if (result <= 0) return;
      this.#head += result;
      this.stalledSinceMs = nowMs;
    }
    this.#head = 0;
    this.#tail = 0;
    this.stalledSinceMs = null;
  }

  /** Closes the descriptor. */
  close(): void {
    if (this.fd >= 0) libc.close(this.fd);
    this.#seal?.close();
    this.fd = -1;
    this.open = false;
  }
}
