/**
 * channel.ts - the replication channel of one service: frames over one TCP connection at a time
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
 * Between hosts with several links a channel outlives its connection. What the peer has not confirmed is
 * kept (retained.ts). When a connection is of no more use, the channel is suspended, and resumed on
 * another one, where each side says which message it has applied last and sends again what the
 * other lacks. Meanwhile it counts as open, and what is sent on it waits.
 *
 *   live ── suspend() ──> suspended ── attach() ──> connecting, greeting ── resume() ──> live
 *
 * A standby that others follow (protocol/chain.ts) has two: what the one to the primary brings is handed on over the
 * other, with its number, after it was applied here.
 *
 * Limits: BACKLOG_MAX octets wait for the socket at most, and as many for a confirmation; the owner
 * stops reading clients at `isCongested` (half of it), so one more frame of the largest size always
 * fits. `stalledSinceMs` tells how long the peer has taken nothing.
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
import { Retained } from "./retained.ts";
import { NONCE_LENGTH, RECORD_HEADER, type StreamSeal } from "./seal.ts";

/** Frames without a body that are sent again on another connection. */
const MUST_ARRIVE: ReadonlySet<Frame["kind"]> = new Set(["handover", "took", "whole", "chain"]);

/** Nobody further down the chain. */
const NOBODY: readonly number[] = [];

/** Octets that may wait for the socket. */
export const BACKLOG_MAX = 16 << 20;

/** Octets taken in one pass: what is behind them must not wait long for a beat. */
const RECEIVE_MAX = 1 << 20;

/** Octets of bodies that are applied at most before the peer is told, so that it can forget them. */
const UNCONFIRMED_MAX = 256 << 10;

/** One TCP connection to the peer, nonblocking. */
export class Channel {
  /** Descriptor; -1 while suspended and once closed. */
  fd: number;
  /** Who is at the other end. */
  readonly peer: string;
  /** It is of no more use. */
  isClosed = false;
  /** Told apart from the service's other channels; 0 for one that cannot be resumed. */
  readonly session: number;
  /** This side has opened it, and opens the next connection. */
  readonly connects: boolean;
  /** Index of the link that the connection uses; null when the peer has chosen it. */
  link: number | null;
  /** Since when there is no connection that carries; null while there is. */
  suspendedSinceMs: number | null = null;
  /** When the present connection was begun. */
  attachedMs: number;
  /** Connections that were begun to resume it. */
  attempts = 0;
  /** Since when its link has been seen behind the others. */
  behindSinceMs: number | null = null;
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
  /** Number of the last one that is kept here as it must be: applied, and on disk where there is a log on one. */
  kept = 0;
  /** What `kept` was when the peer was told last. */
  acknowledged = 0;
  /** The peer waits for a word on what it has sent. */
  owesWord = false;
  /** Primary: the standby has been told that it has all connections. */
  isWhole = false;
  /** Number of our last message that the peer has applied. */
  theirs = 0;
  /** What those have applied who follow us, for the peer to know. */
  further: readonly number[] = NOBODY;
  /** The peer should be told at once, as something waits for it. */
  isFurtherDue = false;
  /** What the peer was told last. */
  #saidFurther = NOBODY;
  /** Which region of the core's memory is the inbox. */
  readonly region: 0 | 1;

  /** Why a frame could not be taken; the channel is of no more use then. */
  refused: string | null = null;

  #seal: StreamSeal | null;
  /** Null when nothing needs to be sent again. */
  readonly #retained: Retained | null;
  /** Octets of bodies that were applied and not confirmed. */
  #unconfirmed = 0;
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
      peer: string;
      base: bigint;
      connected: boolean;
      seal: StreamSeal | null;
      session: number;
      link: number | null;
      nowMs: number;
      region: 0 | 1;
    },
  ) {
    this.fd = fd;
    this.region = options.region;
    this.peer = options.peer;
    this.session = options.session;
    this.link = options.link;
    this.connects = options.link !== null;
    this.attachedMs = options.nowMs;
    this.#retained = options.session === 0 ? null : new Retained(BACKLOG_MAX);
    this.#seal = options.seal;
    this.connected = options.connected;
    this.sinceMs = options.nowMs;
    this.#core = options.core;
    this.#base = options.base;
    this.#inbox = options.core.wasm.inbox(this.region);
    this.#inboxSize = options.core.wasm.inboxSize(this.region);
  }

  /** True while octets wait for the socket. */
  get hasBacklog(): boolean {
    return this.#tail > this.#head;
  }

  /** True when no more clients' packets should be read. */
  get isCongested(): boolean {
    const retained = this.#retained?.octets ?? 0;
    return Math.max(this.#tail - this.#head, retained) > BACKLOG_MAX / 2;
  }

  /** True when the peer should be told what was applied, though nothing waits for it. */
  get owesConfirmation(): boolean {
    return this.#retained !== null && this.#unconfirmed > UNCONFIRMED_MAX;
  }

  /** True when the peer does not know yet what those who follow us have applied. */
  get owesFurther(): boolean {
    return this.further !== this.#saidFurther;
  }

  /** True when another connection could take this one's place. */
  get canResume(): boolean {
    return this.open && this.session !== 0 && this.refused === null;
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
      this.#unconfirmed += bodyLength;
      if (frame.kind === "data") this.#retained?.confirm(frame.committed);
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
      if (this.#hello !== null) this.#say(encodeFrame(this.#hello), this.attachedMs);
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

  /** Says hello, or resume, on a connection that this side has opened. */
  greet(hello: Frame, nowMs: number): void {
    if (this.#seal === null) return this.#say(encodeFrame(hello), nowMs);
    this.#hello = hello;
    this.#queue(this.#seal.nonce, nowMs);
    this.flush(nowMs);
  }

  /** Sends a frame without a body. */
  send(frame: Frame, nowMs: number): void {
    const envelope = encodeFrame(frame);
    // Of the others, what is kept is said again when the channel is resumed.
    const mustArrive = MUST_ARRIVE.has(frame.kind);
    if (mustArrive && !this.#retain(null, framed(envelope))) return;
    if (this.suspendedSinceMs === null) this.#say(envelope, nowMs);
  }

  #say(envelope: Uint8Array, nowMs: number): void {
    this.#queueFrame(framed(envelope), nowMs);
    this.flush(nowMs);
  }

  /** Keeps a frame until it is confirmed; false when that closes the channel. */
  #retain(seq: number | null, frame: Uint8Array): boolean {
    if (this.#retained === null || this.#retained.add(seq, frame)) return true;
    // Cannot happen while the owner heeds isCongested.
    this.close();
    return false;
  }

  // Another connection --------------------------------------------------------------------------

  /** Leaves the connection; what was not confirmed waits for the next. */
  suspend(nowMs: number): void {
    if (this.fd >= 0) libc.close(this.fd);
    this.#seal?.close();
    this.fd = -1;
    this.connected = false;
    this.#hello = null;
    this.#start = 0;
    this.#fill = 0;
    this.#head = 0;
    this.#tail = 0;
    this.stalledSinceMs = null;
    this.suspendedSinceMs ??= nowMs;
  }

  /** Takes another connection, over which nothing was said yet. */
  attach(
    fd: number,
    options: { seal: StreamSeal | null; connected: boolean; link: number | null; nowMs: number },
  ): void {
    this.suspend(options.nowMs);
    this.fd = fd;
    this.#seal = options.seal;
    this.connected = options.connected;
    this.link = options.link;
    this.attachedMs = options.nowMs;
  }

  /**
   * Goes on: sends what the peer lacks, who has applied message `applied` last. The side that was
   * asked answers with `answer` first.
   *
   * @throws {MessageError} When the peer cannot have applied that.
   */
  resume(applied: number, nowMs: number, answer: Frame | null = null): void {
    const retained = this.#retained!;
    if (!retained.confirm(applied)) {
      throw new MessageError(`Cannot resume after message ${applied}: it was not sent`);
    }
    if (answer !== null) this.#queueFrame(framed(encodeFrame(answer)), nowMs);
    for (const frame of retained.frames()) this.#queueFrame(frame, nowMs);
    this.suspendedSinceMs = null;
    // What was applied is no word on what is kept.
    this.owesWord = true;
    this.acknowledged = 0;
    this.flush(nowMs);
  }

  // Sending -------------------------------------------------------------------------------------

  /** Sends the core's message body in `epoch`, and with it what is kept here. */
  sendBody(epoch: number, nowMs: number): void {
    const { bytes, wasm } = this.#core;
    const bodyLength = wasm.bodyLength();
    const seq = wasm.messageSeq() >>> 0;
    const { kept: committed, further } = this;
    const envelope = encodeFrame({ kind: "data", epoch, seq, committed, bodyLength, further });
    let at = wasm.body() - envelope.length - 2;
    bytes[at] = envelope.length >> 8;
    bytes[at + 1] = envelope.length;
    bytes.set(envelope, at + 2);
    let length = 2 + envelope.length + bodyLength;
    if (!this.#retain(seq, bytes.subarray(at, at + length))) return;
    if (this.suspendedSinceMs !== null) return wasm.sealed();
    this.#noteWord();
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

  /** Tells the peer what is kept here, when it does not know yet. */
  acknowledge(epoch: number, nowMs: number): void {
    const isNews = this.acknowledged !== this.kept || this.isFurtherDue;
    if (!isNews || this.suspendedSinceMs !== null) return;
    this.#noteWord();
    const { kept: committed, further } = this;
    this.send({ kind: "data", epoch, seq: 0, committed, bodyLength: 0, further }, nowMs);
  }

  /** The peer is being told what is kept. */
  #noteWord(): void {
    this.acknowledged = this.kept;
    this.isFurtherDue = false;
    this.#saidFurther = this.further;
    this.#unconfirmed = 0;
    this.owesWord &&= this.kept !== this.applied;
  }

  /** Hands a message on that another channel brought, from the core's memory at `body`. */
  handOn(frame: Frame & { kind: "data" }, body: number, nowMs: number): void {
    const { epoch, seq, bodyLength } = frame;
    const { kept: committed } = this;
    const envelope = encodeFrame({
      kind: "data",
      epoch,
      seq,
      committed,
      bodyLength,
      further: NOBODY,
    });
    const text = 2 + envelope.length + bodyLength;
    const head = this.#seal === null ? 0 : RECORD_HEADER;
    const at = this.#reserve(head + text, nowMs);
    if (at === null) return;
    const { bytes, address } = this.#backlog;
    const start = at + head;
    bytes[start] = envelope.length >> 8;
    bytes[start + 1] = envelope.length;
    bytes.set(envelope, start + 2);
    bytes.set(this.#core.bytes.subarray(body, body + bodyLength), start + 2 + envelope.length);
    if (this.#seal !== null) {
      const place = { bytes, at, address: address + BigInt(at) };
      if (!this.#seal.seal(place, text)) return this.close();
    }
    this.#tail += head + text;
    this.flush(nowMs);
  }

  /** Seals a frame, if it is to be, where it waits. */
  #queueFrame(frame: Uint8Array, nowMs: number): void {
    if (this.#seal === null) return this.#queue(frame, nowMs);
    const length = RECORD_HEADER + frame.length;
    const at = this.#reserve(length, nowMs);
    if (at === null) return;
    const { bytes, address } = this.#backlog;
    bytes.set(frame, at + RECORD_HEADER);
    const place = { bytes, at, address: address + BigInt(at) };
    if (!this.#seal.seal(place, frame.length)) return this.close();
    this.#tail += length;
  }

  #queue(bytes: Uint8Array, nowMs: number): void {
    const at = this.#reserve(bytes.length, nowMs);
    if (at === null) return;
    this.#backlog.bytes.set(bytes, at);
    this.#tail += bytes.length;
  }

  /** Where `length` octets can wait for the socket; null when that closes the channel. */
  #reserve(length: number, nowMs: number): number | null {
    if (this.#head > 0 && this.#tail + length > this.#backlog.bytes.length) {
      this.#backlog.bytes.copyWithin(0, this.#head, this.#tail);
      this.#tail -= this.#head;
      this.#head = 0;
    }
    if (this.#tail + length > this.#backlog.bytes.length) {
      // Cannot happen while the owner heeds isCongested; the stream is broken, so end it.
      this.close();
      return null;
    }
    if (!this.hasBacklog) this.stalledSinceMs = nowMs;
    return this.#tail;
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
    this.isClosed = true;
  }
}

/** An envelope after its length: a frame without a body. */
function framed(envelope: Uint8Array): Uint8Array {
  const frame = new Uint8Array(2 + envelope.length);
  frame[0] = envelope.length >> 8;
  frame[1] = envelope.length;
  frame.set(envelope, 2);
  return frame;
}
