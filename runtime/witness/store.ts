/**
 * store.ts - the registers of a witness, in a file that no crash can spoil
 *
 * Theory of operation
 * The file is a log: a header, then one line for each claim that was granted, newest last.
 *
 *   holdfast-witness 1
 *   352441c2 {"key":"a+b/web","epoch":3,"owner":"a","token":"9f3c"}     CRC-32 of what follows it
 *
 * A claim is answered only when its line is on the disk (fdatasync). A crash may leave the last line
 * incomplete: its claim was never answered, so it is cut off when the file is opened. Anything wrong
 * before the last line is damage, and the file is refused. When a write or sync fails, nobody can say
 * what is on the disk (after a failed fsync(2) the kernel may drop what it held): the store is broken
 * from then on, and its owner has to end; a new start reads what is really there.
 *
 * Compaction writes the newest lines into FILE.new, syncs it, renames it over FILE and syncs the
 * directory: at every moment one whole log carries the name. FILE.lock is locked while the store is
 * open, as two witnesses on one file would grant the same epoch twice.
 *
 * Limits: KEYS_MAX registers; COMPACT_OCTETS of superseded lines. All calls are synchronous: a claim
 * costs one write and one sync.
 * Sources: write(2), fdatasync(2), rename(2), flock(2).
 */

import { dirname } from "node:path";
import { crc32 } from "node:zlib";
import {
  asRegisterValue,
  type Claim,
  decide,
  type Decision,
  type RegisterValue,
} from "../protocol/register.ts";

/** Registers of one witness; about 200 octets of memory and disk each. */
export const KEYS_MAX = 65536;
/** The log is written anew when it has become so much longer than it must be. */
const COMPACT_OCTETS = 1 << 20;
/** A file longer than this is none of ours. */
const FILE_OCTETS_MAX = 64 << 20;
const HEADER = "holdfast-witness 1\n";

/** A file that cannot be used, or could not be written. */
export class StoreError extends Error {
  /** Always "StoreError". */
  override readonly name = "StoreError";
}

/** The registers by key. */
export class RegisterStore {
  readonly #path: string;
  readonly #lock: Deno.FsFile;
  readonly #values = new Map<string, RegisterValue>();
  #file: Deno.FsFile;
  #length = 0;
  #neededLength = 0;
  #broken: string | null = null;

  private constructor(path: string, lock: Deno.FsFile) {
    this.#path = path;
    this.#lock = lock;
    this.#file = this.#open();
  }

  /**
   * Opens the store, which is made if missing.
   *
   * @throws {StoreError} When another process has it, or the file is damaged or none of ours.
   * @throws {Error} When the file cannot be opened or read.
   */
  static open(path: string): RegisterStore {
    const lock = Deno.openSync(`${path}.lock`, { create: true, write: true, mode: 0o600 });
    if (!lock.tryLockSync(true)) {
      lock.close();
      throw new StoreError(`Cannot use ${path}: another process has it open`);
    }
    try {
      return new RegisterStore(path, lock);
    } catch (error) {
      lock.close();
      throw error;
    }
  }

  /** How many registers there are. */
  get size(): number {
    return this.#values.size;
  }

  /** Why nothing more can be granted; null while all is well. */
  get broken(): string | null {
    return this.#broken;
  }

  /** What a register holds. */
  read(key: string): RegisterValue | null {
    return this.#values.get(key) ?? null;
  }

  /**
   * Decides a claim. When it returns a grant, the grant is on the disk.
   *
   * @throws {StoreError} When the store is full, or broken.
   */
  claim(key: string, claim: Claim): Decision {
    if (this.#broken !== null) throw new StoreError(this.#broken);
    const current = this.#values.get(key) ?? null;
    const decision = decide(current, claim);
    if (!decision.granted || decision.value === current) return decision;
    if (current === null && this.#values.size >= KEYS_MAX) {
      throw new StoreError(`Cannot keep a register for ${key}: all ${KEYS_MAX} are in use`);
    }
    const line = lineOf(key, decision.value!);
    try {
      writeAll(this.#file, line);
      this.#file.syncDataSync();
    } catch (error) {
      this.#broken = `Cannot write ${this.#path}: ${(error as Error).message}`;
      throw new StoreError(this.#broken);
    }
    if (current !== null) this.#neededLength -= lineOf(key, current).length;
    this.#neededLength += line.length;
    this.#length += line.length;
    this.#values.set(key, decision.value!);
    if (this.#length > this.#neededLength + COMPACT_OCTETS) this.#compact();
    return decision;
  }

  /** Closes the files; another process may have them now. */
  close(): void {
    this.#broken ??= `Cannot use ${this.#path}: it is closed`;
    this.#file.close();
    this.#lock.close();
  }

  /** Reads the log and leaves the file open at its end. */
  #open(): Deno.FsFile {
    const file = Deno.openSync(this.#path, { read: true, write: true, create: true, mode: 0o600 });
    try {
      const { size } = file.statSync();
      if (size > FILE_OCTETS_MAX) {
        throw new StoreError(
          `Cannot use ${this.#path}: it has ${size} octets, allowed are ${FILE_OCTETS_MAX}`,
        );
      }
      const whole = this.#load(readAll(file, size));
      if (whole < size) file.truncateSync(whole);
      file.seekSync(whole, Deno.SeekMode.Start);
      if (whole === 0) {
        const header = encode(HEADER);
        writeAll(file, header);
        this.#length = header.length;
      } else this.#length = whole;
      file.syncSync();
      syncDirectory(this.#path);
      return file;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** Takes the lines of a log; returns how many octets of it are whole. */
  #load(octets: Uint8Array): number {
    const text = new TextDecoder("latin1").decode(octets);
    if (!text.startsWith(HEADER)) {
      // Cut short while it was made: nothing was ever granted from it.
      if (HEADER.startsWith(text)) return 0;
      throw new StoreError(
        `Cannot use ${this.#path}: it begins with ${
          JSON.stringify(text.slice(0, 20))
        }, expected is ` +
          JSON.stringify(HEADER),
      );
    }
    let at = HEADER.length;
    this.#neededLength = at;
    while (at < text.length) {
      const end = text.indexOf("\n", at);
      const entry = end < 0 ? null : parseLine(text.slice(at, end));
      if (entry === null) {
        // A torn write is the end of the log: a later line would be one that was granted after it.
        if (end < 0 || text.indexOf("\n", end + 1) < 0) return at;
        throw new StoreError(`Cannot use ${this.#path}: the line at octet ${at} is damaged`);
      }
      const { key, value } = entry;
      const before = this.#values.get(key);
      if (before !== undefined) this.#neededLength -= lineOf(key, before).length;
      this.#neededLength += end + 1 - at;
      this.#values.set(key, value);
      at = end + 1;
    }
    return at;
  }

  /** Writes the log anew, with the newest line of each register. */
  #compact(): void {
    const path = `${this.#path}.new`;
    let next: Deno.FsFile | null = null;
    try {
      next = Deno.openSync(path, { write: true, create: true, truncate: true, mode: 0o600 });
      const lines = [...this.#values].map(([key, value]) => lineOf(key, value));
      let length = 0;
      for (const octets of [encode(HEADER), ...lines]) {
        writeAll(next, octets);
        length += octets.length;
      }
      next.syncSync();
      Deno.renameSync(path, this.#path);
      syncDirectory(this.#path);
      this.#file.close();
      this.#file = next;
      this.#length = length;
      this.#neededLength = length;
    } catch (error) {
      // The claim that led here is safe in one of the two files; which one is found at the next start.
      next?.close();
      this.#broken = `Cannot compact ${this.#path}: ${(error as Error).message}`;
    }
  }
}

function lineOf(key: string, value: RegisterValue): Uint8Array {
  const { epoch, owner, token, follows, heirs } = value;
  const text = JSON.stringify({ key, epoch, owner, token, follows, heirs });
  return encode(`${checksum(text)} ${text}\n`);
}

/** One entry; null when the line is not one of ours, whole and unaltered. */
function parseLine(line: string): { key: string; value: RegisterValue } | null {
  const text = line.slice(9);
  if (line[8] !== " " || line.slice(0, 8) !== checksum(text)) return null;
  const raw = JSON.parse(text) as { key: unknown };
  const value = asRegisterValue(raw);
  return value === null || typeof raw.key !== "string" ? null : { key: raw.key, value };
}

function checksum(text: string): string {
  return crc32(text).toString(16).padStart(8, "0");
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function writeAll(file: Deno.FsFile, octets: Uint8Array): void {
  for (let at = 0; at < octets.length;) at += file.writeSync(octets.subarray(at));
}

function readAll(file: Deno.FsFile, size: number): Uint8Array {
  const octets = new Uint8Array(size);
  let at = 0;
  while (at < size) {
    const count = file.readSync(octets.subarray(at));
    if (count === null) break;
    at += count;
  }
  return octets.subarray(0, at);
}

/** A new name is on the disk only when its directory is. */
function syncDirectory(path: string): void {
  const directory = Deno.openSync(dirname(path), { read: true });
  try {
    directory.syncSync();
  } finally {
    directory.close();
  }
}
