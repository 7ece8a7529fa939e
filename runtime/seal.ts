/**
 * seal.ts - what replicas send each other, encrypted, authenticated, and taken once
 *
 * Theory of operation
 * Beats and frames are sealed where they lie (io/libcrypto.ts), each in the headroom its sender left.
 *
 *   beat     | key id u32 | number u64 | tag 16 | sealed: the beat |                        u32, u64: be
 *   stream   each side first: 32 random octets; then records
 *   record   | length u32 | key id u32 | tag 16 | sealed: envelope length u16, envelope, body |
 *
 * What is before the tag is authenticated with the text. A record's number is not sent: both sides count
 * the records of a key on this connection, so one that is lost, doubled, moved or comes from another
 * connection does not open. Beats may be lost and reordered: their numbers are sent and a window tells
 * which were taken. A key is derived for one link, or connection, and one direction (keyring.ts).
 *
 * What does not open is refused and counted, and changes nothing: a beat is skipped, a stream ends.
 *
 * Limits: OCTETS_MAX octets under one key of a connection, where AES-GCM's margin is still below 2^-48;
 * renewal comes long before, and without it the connection is made anew with a fresh key.
 * Sources: NIST SP 800-38D; draft-irtf-cfrg-aead-limits.
 */
import { addressOf } from "./io/libc.ts";
import { Aead, TAG_LENGTH } from "./io/libcrypto.ts";
import { derive, type Keyring } from "./protocol/keyring.ts";
import { ReplayWindow } from "./protocol/replay_window.ts";

/** Octets before a sealed beat. */
export const BEAT_HEADER: number = 12 + TAG_LENGTH;
/** Octets before a sealed record. */
export const RECORD_HEADER: number = 8 + TAG_LENGTH;
/** Octets that each side of a stream says first. */
export const NONCE_LENGTH = 32;
/** Octets sealed under one key of a connection. */
export const OCTETS_MAX: number = 2 ** 44;

const BEAT_AAD = 12;
const RECORD_AAD = 8;
/** Numbers stay exact in JavaScript. */
const NUMBER_HIGH_MAX = 0x1f_ffff;

/** Octets, and where the kernel and libcrypto find them. */
export interface Place {
  /** The memory. */
  bytes: Uint8Array;
  /** Where in it. */
  at: number;
  /** Address of `bytes[at]`. */
  address: bigint;
}

/** Seals and opens the beats of one link. */
export class BeatSeal {
  readonly #keyring: Keyring;
  readonly #sendInfo: string;
  readonly #receiveInfo: string;
  #sending: { id: number; aead: Aead; number: number } | null = null;
  readonly #receiving = new Map<number, { aead: Aead; window: ReplayWindow }>();

  /** `local` and `remote` are the link's ends, as text that both nodes' configurations agree on. */
  constructor(
    keyring: Keyring,
    ends: { node: string; peer: string; local: string; remote: string },
  ) {
    this.#keyring = keyring;
    this.#sendInfo = `beat | ${ends.node} | ${ends.local} | ${ends.remote}`;
    this.#receiveInfo = `beat | ${ends.peer} | ${ends.remote} | ${ends.local}`;
  }

  /** Whether there is a key to send with. */
  get canSend(): boolean {
    return this.#keyring.sendId !== null;
  }

  /**
   * Seals the `length` octets of a beat that lie BEAT_HEADER octets after `place`.
   *
   * @returns The datagram's length.
   */
  seal({ bytes, at, address }: Place, length: number): number {
    const id = this.#keyring.sendId!;
    if (this.#sending?.id !== id) {
      const key = derive(this.#keyring.secret(id)!, this.#sendInfo);
      this.#sending?.aead.free();
      this.#sending = { id, aead: new Aead(key, "seal"), number: 0 };
    }
    const number = ++this.#sending.number;
    setU32(bytes, at, id);
    setU32(bytes, at + 4, Math.floor(number / 2 ** 32));
    setU32(bytes, at + 8, number >>> 0);
    const text = { address: address + BigInt(BEAT_HEADER), length };
    const aad = { address, length: BEAT_AAD };
    this.#sending.aead.seal(number, text, aad, address + BigInt(BEAT_AAD));
    return BEAT_HEADER + length;
  }

  /**
   * Opens a datagram of `length` octets in place.
   *
   * @returns Null when the beat lies BEAT_HEADER octets after `place`; else why it is refused.
   */
  open({ bytes, at, address }: Place, length: number): string | null {
    if (length <= BEAT_HEADER) return `it has ${length} octets`;
    const id = getU32(bytes, at);
    const high = getU32(bytes, at + 4);
    const number = high * 2 ** 32 + getU32(bytes, at + 8);
    const secret = this.#keyring.secret(id);
    if (secret === undefined) return "its key is not known, or no longer";
    let key = this.#receiving.get(id);
    if (key === undefined) {
      this.#prune();
      const aead = new Aead(derive(secret, this.#receiveInfo), "open");
      key = { aead, window: new ReplayWindow() };
      this.#receiving.set(id, key);
    }
    if (high > NUMBER_HIGH_MAX || !key.window.isFresh(number)) return "it was there before";
    const text = { address: address + BigInt(BEAT_HEADER), length: length - BEAT_HEADER };
    const aad = { address, length: BEAT_AAD };
    if (!key.aead.open(number, text, aad, address + BigInt(BEAT_AAD))) return "it was altered";
    key.window.take(number);
    this.#keyring.noteHeard(id);
    return null;
  }

  #prune(): void {
    for (const [id, { aead }] of this.#receiving) {
      if (this.#keyring.secret(id) !== undefined) continue;
      aead.free();
      this.#receiving.delete(id);
    }
  }

  /** Forgets all keys. */
  close(): void {
    this.#sending?.aead.free();
    for (const { aead } of this.#receiving.values()) aead.free();
    this.#sending = null;
    this.#receiving.clear();
  }
}

/** One direction of a stream. */
interface Direction {
  id: number;
  aead: Aead;
  number: number;
  octets: number;
}

/** Seals and opens the records of one connection. */
export class StreamSeal {
  /** What this side says first. */
  readonly nonce: Uint8Array = crypto.getRandomValues(new Uint8Array(NONCE_LENGTH));
  readonly #keyring: Keyring;
  readonly #ends: { node: string; peer: string; connects: boolean };
  #salt: Uint8Array<ArrayBuffer> | null = null;
  #isClosed = false;
  #sending: Direction | null = null;
  #receiving: Direction | null = null;

  /** `connects`: this side has opened the connection. */
  constructor(keyring: Keyring, ends: { node: string; peer: string; connects: boolean }) {
    this.#keyring = keyring;
    this.#ends = ends;
  }

  /** Whether the other side's nonce is known. */
  get isMet(): boolean {
    return this.#salt !== null;
  }

  /** Takes what the other side said first. */
  meet(nonce: Uint8Array): void {
    const { connects } = this.#ends;
    this.#salt = new Uint8Array(2 * NONCE_LENGTH);
    this.#salt.set(connects ? this.nonce : nonce);
    this.#salt.set(connects ? nonce : this.nonce, NONCE_LENGTH);
  }

  #direction(id: number, secret: Uint8Array, way: "seal" | "open"): Direction {
    const sender = way === "seal" ? this.#ends.node : this.#ends.peer;
    const key = derive(secret, `channel | ${sender}`, this.#salt!);
    return { id, aead: new Aead(key, way), number: 0, octets: 0 };
  }

  /**
   * Seals the `length` octets that lie RECORD_HEADER octets after `place`.
   *
   * @returns False when the connection is closed, or its key is worn out and it must be made anew.
   */
  seal({ bytes, at, address }: Place, length: number): boolean {
    // A key that was forgotten must not come back: its numbers would begin anew.
    if (this.#isClosed) return false;
    const id = this.#keyring.sendId!;
    if (this.#sending?.id !== id) {
      const next = this.#direction(id, this.#keyring.secret(id)!, "seal");
      this.#sending?.aead.free();
      this.#sending = next;
    }
    const sending = this.#sending;
    sending.octets += length;
    if (sending.octets > OCTETS_MAX) return false;
    setU32(bytes, at, length);
    setU32(bytes, at + 4, id);
    const text = { address: address + BigInt(RECORD_HEADER), length };
    const aad = { address, length: RECORD_AAD };
    sending.aead.seal(sending.number++, text, aad, address + BigInt(RECORD_AAD));
    this.#keyring.noteSealed(length);
    return true;
  }

  /** Length of the text of a record whose first octets are there. */
  textLength(bytes: Uint8Array, at: number): number {
    return getU32(bytes, at);
  }

  /**
   * Opens the record at `place` in place.
   *
   * @returns Null when its text lies RECORD_HEADER octets after `place`; else why it is refused.
   */
  open({ bytes, at, address }: Place): string | null {
    if (this.#isClosed) return "the connection is closed";
    const length = getU32(bytes, at);
    const id = getU32(bytes, at + 4);
    let receiving = this.#receiving;
    if (receiving?.id !== id) {
      const secret = this.#keyring.secret(id);
      if (secret === undefined) return "its key is not known, or no longer";
      receiving = this.#direction(id, secret, "open");
    }
    const text = { address: address + BigInt(RECORD_HEADER), length };
    const aad = { address, length: RECORD_AAD };
    const isGenuine = receiving.aead.open(
      receiving.number,
      text,
      aad,
      address + BigInt(RECORD_AAD),
    );
    if (!isGenuine) {
      if (receiving !== this.#receiving) receiving.aead.free();
      return "it was altered, or is not the next one";
    }
    receiving.number++;
    if (receiving !== this.#receiving) {
      // In order, so the sender has done with the key before.
      this.#receiving?.aead.free();
      this.#receiving = receiving;
      this.#keyring.noteHeard(id);
    }
    return null;
  }

  /** Forgets the keys; nothing is sealed or opened afterwards. */
  close(): void {
    this.#isClosed = true;
    this.#sending?.aead.free();
    this.#receiving?.aead.free();
    this.#sending = null;
    this.#receiving = null;
  }
}

/** The place of `bytes[at]`; computes the address, so not for every frame. */
export function placeOf(bytes: Uint8Array, at = 0): Place {
  return { bytes, at, address: addressOf(bytes) + BigInt(at) };
}

function setU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

function getU32(bytes: Uint8Array, at: number): number {
  return ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0;
}
