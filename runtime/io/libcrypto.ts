/**
 * libcrypto.ts - AES-256-GCM by OpenSSL's libcrypto, in place on memory that never moves
 *
 * Theory of operation
 * Whole messages are sealed and opened where they lie, in WebAssembly memory or in a {@link Memory}:
 * no copy, nothing allocated. Each {@linkcode Aead} is one key in one direction; the key schedule is
 * computed once, each message gives a nonce.
 *
 *   nonce    12 octets: zero u32 | number of the message u64be      (NIST SP 800-38D section 8.2.1)
 *   tag      16 octets, beside the text, where the caller says
 *
 * Why not node:crypto: under Deno its ciphers copy, and are not the machine's AES instructions. Measured
 * here with associated data and tag: 64 octets 0.3 us against 6 us, 64 KiB 23 us against 590 us;
 * ChaCha20-Poly1305 of the same library 0.5 us and 25 us.
 *
 * Limits: a text has at most 2^31 - 1 octets; a message's number is below 2^53. Needs libcrypto.so.3,
 * Debian package libssl3. Not safe for two threads at once; each thread has keys of its own.
 * Sources: EVP_EncryptInit(3ssl); RFC 5116 section 5.2.
 */
import { Memory } from "./libc.ts";

/** Octets of a key. */
export const KEY_LENGTH = 32;
/** Octets of a tag. */
export const TAG_LENGTH = 16;

const NONCE_LENGTH = 12;
const EVP_CTRL_AEAD_GET_TAG = 0x10;
const EVP_CTRL_AEAD_SET_TAG = 0x11;

const SIGNATURES = {
  EVP_aes_256_gcm: { parameters: [], result: "u64" },
  EVP_CIPHER_CTX_new: { parameters: [], result: "u64" },
  EVP_CIPHER_CTX_free: { parameters: ["u64"], result: "void" },
  EVP_CIPHER_CTX_ctrl: { parameters: ["u64", "i32", "i32", "u64"], result: "i32" },
  EVP_CipherInit_ex: { parameters: ["u64", "u64", "u64", "u64", "u64", "i32"], result: "i32" },
  EVP_CipherUpdate: { parameters: ["u64", "u64", "u64", "u64", "i32"], result: "i32" },
  EVP_CipherFinal_ex: { parameters: ["u64", "u64", "u64"], result: "i32" },
} as const;

type Functions = Deno.DynamicLibrary<typeof SIGNATURES>["symbols"];

let opened: Functions | null = null;

/**
 * Opens the library, once for each thread.
 *
 * @throws {Error} When this host does not have it.
 */
export function openLibcrypto(): void {
  library();
}

function library(): Functions {
  if (opened !== null) return opened;
  try {
    opened = Deno.dlopen("libcrypto.so.3", SIGNATURES).symbols;
  } catch (error) {
    throw new Error(
      `Cannot encrypt without libcrypto.so.3 (${(error as Error).message}): ` +
        `apt-get install libssl3`,
    );
  }
  return opened;
}

/** One key, for one direction. */
export class Aead {
  readonly #crypto: Functions;
  #context: bigint;
  readonly #isSealing: 0 | 1;
  /** Key, nonce and the length that the library writes. */
  readonly #scratch = new Memory(KEY_LENGTH + 16 + 8);
  readonly #nonceAddress: bigint;
  readonly #lengthAddress: bigint;

  /**
   * Takes a key.
   *
   * @param key KEY_LENGTH octets; copied.
   * @param direction "seal" or "open".
   * @throws {RangeError} When the key has another length.
   * @throws {Error} When the library is missing or out of memory.
   */
  constructor(key: Uint8Array, direction: "seal" | "open") {
    if (key.length !== KEY_LENGTH) {
      throw new RangeError(
        `Cannot use a key of ${key.length} octets: allowed are exactly ${KEY_LENGTH}`,
      );
    }
    this.#crypto = library();
    this.#isSealing = direction === "seal" ? 1 : 0;
    this.#nonceAddress = this.#scratch.address + BigInt(KEY_LENGTH);
    this.#lengthAddress = this.#nonceAddress + 16n;
    this.#context = this.#crypto.EVP_CIPHER_CTX_new();
    const cipher = this.#crypto.EVP_aes_256_gcm();
    this.#scratch.bytes.set(key);
    const isReady = this.#context !== 0n &&
      this.#init(cipher, this.#scratch.address, 0n) === 1;
    this.#scratch.bytes.fill(0, 0, KEY_LENGTH);
    if (isReady) return;
    this.free();
    throw new Error("Cannot set up AES-256-GCM: libcrypto refused the key");
  }

  /**
   * Encrypts in place.
   *
   * @param number Number of the message: never twice for one key.
   * @param text What is encrypted: its address and length in octets.
   * @param aad What is authenticated with it.
   * @param tagAddress Where TAG_LENGTH octets of tag are put.
   * @throws {Error} When the library fails; the text is then of no use.
   */
  seal(number: number, text: Span, aad: Span, tagAddress: bigint): void {
    this.#setNonce(number);
    const isDone = this.#init(0n, 0n, this.#nonceAddress) === 1 &&
      this.#update(text, aad) &&
      this.#crypto.EVP_CIPHER_CTX_ctrl(
          this.#context,
          EVP_CTRL_AEAD_GET_TAG,
          TAG_LENGTH,
          tagAddress,
        ) === 1;
    if (!isDone) throw new Error(`Cannot encrypt ${text.length} octets: libcrypto failed`);
  }

  /**
   * Decrypts in place and tells whether nothing was altered. If not, the text must not be used.
   *
   * @param number Number of the message, as it was sealed with.
   * @param text What is decrypted.
   * @param aad What was authenticated with it.
   * @param tagAddress Where the tag is.
   */
  open(number: number, text: Span, aad: Span, tagAddress: bigint): boolean {
    this.#setNonce(number);
    return this.#init(0n, 0n, this.#nonceAddress) === 1 &&
      this.#crypto.EVP_CIPHER_CTX_ctrl(
          this.#context,
          EVP_CTRL_AEAD_SET_TAG,
          TAG_LENGTH,
          tagAddress,
        ) === 1 &&
      this.#update(text, aad);
  }

  /** Forgets the key; nothing else may be called afterwards. */
  free(): void {
    if (this.#context !== 0n) this.#crypto.EVP_CIPHER_CTX_free(this.#context);
    this.#context = 0n;
  }

  #setNonce(number: number): void {
    const { view } = this.#scratch;
    view.setUint32(KEY_LENGTH + NONCE_LENGTH - 8, Math.floor(number / 2 ** 32), false);
    view.setUint32(KEY_LENGTH + NONCE_LENGTH - 4, number >>> 0, false);
  }

  #init(cipher: bigint, key: bigint, nonce: bigint): number {
    return this.#crypto.EVP_CipherInit_ex(
      this.#context,
      cipher,
      0n,
      key,
      nonce,
      this.#isSealing,
    );
  }

  #update(text: Span, aad: Span): boolean {
    const crypto = this.#crypto;
    const length = this.#lengthAddress;
    return crypto.EVP_CipherUpdate(this.#context, 0n, length, aad.address, aad.length) === 1 &&
      (text.length === 0 ||
        crypto.EVP_CipherUpdate(
            this.#context,
            text.address,
            length,
            text.address,
            text.length,
          ) === 1) &&
      crypto.EVP_CipherFinal_ex(this.#context, text.address, length) === 1;
  }
}

/** Octets at an address. */
export interface Span {
  /** Address of the first octet. */
  address: bigint;
  /** How many. */
  length: number;
}
