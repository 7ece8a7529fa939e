/**
 * keyring.ts - the secrets two replicas share, and every key that is derived from one
 *
 * Theory of operation
 * A secret is agreed over the control connection (agreement.ts) and has an id that stands in each frame.
 * It can be used for receiving as soon as it is installed, and for sending when told so; the other side
 * does the same in an order that leaves no gap. No key is used for two purposes or directions:
 *
 *   beat key      HKDF(secret, "beat | sender | from | to")         from, to: the link's ends
 *   channel key   HKDF(secret, "channel | sender", salt = nonces)   nonces: 32 octets of each side
 *
 * A stream that is replayed on a new connection meets another nonce and so another key. Secrets live in
 * memory only: a daemon that starts anew agrees on new ones.
 *
 *   install ──> can receive ──use──> is sent with ──drop──> gone
 *
 * Nothing here expires by itself: without a control connection the keys go on being used, so that its
 * loss costs neither protection nor causes a takeover.
 *
 * Limits: SECRETS_MAX secrets; a further one takes the place of the oldest that neither we send with nor
 * the peer was last heard with.
 * Sources: RFC 5869 (HKDF), with SHA-256.
 */
import { hkdfSync } from "node:crypto";

/** Octets of a secret, and of a derived key. */
export const SECRET_LENGTH = 32;
/** Secrets that are kept at one time. */
export const SECRETS_MAX = 4;

/** Derives 32 octets. */
export function derive(secret: Uint8Array, info: string, salt = new Uint8Array()): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", secret, salt, `holdfast 1 ${info}`, SECRET_LENGTH));
}

/** The secrets of one pair of replicas. */
export class Keyring {
  /** By id, oldest first. */
  readonly #secrets = new Map<number, Uint8Array>();
  #sendId: number | null = null;
  #heardId: number | null = null;
  readonly #renewOctets: number;
  #sealedOctets = 0;
  #isWorn = false;

  /** `renewOctets`: after so much sealed with one secret, it {@linkcode takeWorn is worn}. */
  constructor(renewOctets: number) {
    this.#renewOctets = renewOctets;
  }

  /** Id of the secret to send with; null before the first agreement. */
  get sendId(): number | null {
    return this.#sendId;
  }

  /** Ids that can be received with. */
  get ids(): number[] {
    return [...this.#secrets.keys()];
  }

  /** The secret `id`; undefined when it is unknown or was dropped. */
  secret(id: number): Uint8Array | undefined {
    return this.#secrets.get(id);
  }

  /** Makes a secret known; from now on frames sealed with it are taken. A known id stays as it is. */
  install(id: number, secret: Uint8Array): void {
    if (this.#secrets.has(id)) return;
    if (secret.length !== SECRET_LENGTH) {
      throw new RangeError(
        `Cannot install a secret of ${secret.length} octets: allowed are exactly ${SECRET_LENGTH}`,
      );
    }
    if (this.#secrets.size >= SECRETS_MAX) {
      const old = this.ids.find((each) => each !== this.#sendId && each !== this.#heardId);
      this.#secrets.delete(old!);
    }
    this.#secrets.set(id, secret.slice());
  }

  /**
   * Sends with `id` from now on. An id that is not installed, or older than the one in use, changes
   * nothing: numbers of messages would begin anew under a key that has used them.
   */
  use(id: number): void {
    const ids = this.ids;
    const isNewer = this.#sendId === null || ids.indexOf(id) > ids.indexOf(this.#sendId);
    if (!ids.includes(id) || !isNewer) return;
    this.#sendId = id;
    this.#sealedOctets = 0;
    this.#isWorn = false;
  }

  /** `octets` more were sealed with the secret in use. */
  noteSealed(octets: number): void {
    const before = this.#sealedOctets;
    this.#sealedOctets = before + octets;
    if (before < this.#renewOctets && this.#sealedOctets >= this.#renewOctets) this.#isWorn = true;
  }

  /** Whether the secret in use should be renewed; true once for each. */
  takeWorn(): boolean {
    const isWorn = this.#isWorn;
    this.#isWorn = false;
    return isWorn;
  }

  /** The peer was heard with `id`, in a genuine frame. */
  noteHeard(id: number): void {
    this.#heardId = id;
  }

  /** Forgets every secret but `id` and the one we send with. */
  keepOnly(id: number): void {
    for (const each of this.ids) {
      if (each !== id && each !== this.#sendId) this.#secrets.delete(each);
    }
  }
}
