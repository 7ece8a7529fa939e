/**
 * segments.ts - a log that no crash can spoil: append, make durable, forget the oldest
 *
 * Theory of operation
 * Messages lie one after the other in numbered files of a directory of their own, the segments:
 *
 *   0000000007.log   0000000008.log   0000000009.log
 *   | header | record | record | ...         | record | torn |
 *                                     stored ^
 *
 * Commit is by groups: `append()` lets records gather, `commit()` writes them with one write(2) and makes them
 * durable with one fdatasync(2), and the next group is written only afterwards. So a power cut can
 * damage no more than the last group, which nobody has been told is stored. A segment is begun
 * with its header synced and its name durable (the directory is synced) before any record is in it.
 *
 * `recover()` reads all segments. What is not whole at the end of the last one is cut off. Anywhere else it
 * is damage, and the log is refused: each record says up to where all was stored when it was written,
 * so a damaged one that has been stored is told from one that never was by any record after it.
 *
 * When a write or a sync fails, nobody can say what is on the disk (after a failed fsync(2) the kernel
 * may drop what it held), so the log is of no more use; but for a full disk (ENOSPC from write(2)),
 * where the same group can be written again at the same place.
 *
 * Segments are removed oldest first, and the directory is synced after each: at every moment those
 * on the disk have no gap.
 *
 * Limits: a group has at most GROUP_OCTETS; how long segments become is the caller's choice, who says
 * when the next begins. All calls are synchronous.
 * Sources: write(2), fdatasync(2), unlink(2); Rebello et al. 2020, "Can Applications Recover from
 * fsync Failures?"
 */
import type { LogFile, LogFiles } from "./files.ts";
import {
  type BadRecord,
  decodeHeader,
  decodeRecord,
  encodeHeader,
  encodeRecord,
  HEADER_OCTETS,
  type LogOwner,
  type LogRecord,
  recordOctets,
  storedAfter,
} from "./record.ts";

/** Octets of records that are written at one time. */
export const GROUP_OCTETS = 8 << 20;

/** A log that cannot be used. */
export class LogStoreError extends Error {
  /** Always "LogStoreError". */
  override readonly name = "LogStoreError";
}

/** What was found on the disk. */
export interface Recovered {
  /** Numbers of the segments, oldest first. */
  segments: number[];
  /** Octets of them all. */
  octets: number;
  /** Messages in them. */
  records: number;
  /** Number for the next segment. */
  nextSegment: number;
  /** Number for the next message. */
  nextSeq: number;
  /** Octets at the end that never were stored, and are gone now. */
  cutOctets: number;
}

/** Name of a segment's file. */
export function segmentName(number: number): string {
  return `${String(number).padStart(10, "0")}.log`;
}

/** Number of the segment with this name; null for another file. */
function segmentNumber(name: string): number | null {
  return /^\d{10}\.log$/.test(name) ? Number(name.slice(0, 10)) : null;
}

/**
 * Reads a whole log, oldest message first, and cuts off what a crash has left unfinished.
 *
 * @param take Called for each message; its body is valid during the call. `segment` is where it lies.
 * @throws {LogStoreError} When the log is damaged, or another service's; nothing is changed then.
 */
export function recover(
  files: LogFiles,
  owner: LogOwner,
  take: (record: LogRecord, segment: number) => void,
): Recovered {
  const numbers = files.list().map(segmentNumber).filter((n) => n !== null).sort((a, b) => a - b);
  const result: Recovered = {
    segments: [],
    octets: 0,
    records: 0,
    nextSegment: (numbers.at(-1) ?? 0) + 1,
    nextSeq: 1,
    cutOctets: 0,
  };
  for (const [index, number] of numbers.entries()) {
    const name = segmentName(number);
    if (index > 0 && number !== numbers[index - 1] + 1) {
      const missing = segmentName(numbers[index - 1] + 1);
      throw new LogStoreError(
        `Cannot use the log of ${owner.service}: ${files.pathOf(missing)} is missing, though ` +
          `${name} is there`,
      );
    }
    const bytes = files.read(name);
    const isLast = index === numbers.length - 1;
    const whole = readSegment({ files, owner, number, bytes, isLast, result, take });
    result.cutOctets += bytes.length - whole;
    result.octets += whole;
    if (whole > 0) {
      result.segments.push(number);
      // What is gone on from must be durable, also what a process had only written when it died.
      if (isLast) files.truncate(name, whole);
    } else {
      files.remove(name);
      result.nextSegment = number;
    }
  }
  if (numbers.length > 0) files.syncDirectory();
  return result;
}

interface Segment {
  files: LogFiles;
  owner: LogOwner;
  number: number;
  bytes: Uint8Array;
  isLast: boolean;
  result: Recovered;
  take: (record: LogRecord, segment: number) => void;
}

/** Takes the records of a segment; returns how many octets of it are whole. */
function readSegment(segment: Segment): number {
  const { files, owner, number, bytes, isLast, result, take } = segment;
  const refuse = (at: number, { expected, found }: BadRecord) =>
    new LogStoreError(
      `Cannot use the log of ${owner.service}: ${files.pathOf(segmentName(number))} is damaged ` +
        `at octet ${at}: expected ${expected}, found ${found}`,
    );
  const header = decodeHeader(bytes);
  if (header === null) {
    // Its header was durable before any record was written.
    if (isLast && bytes.length <= HEADER_OCTETS) return 0;
    throw refuse(0, { expected: `the header of segment ${number}`, found: "none" });
  }
  if (header.service !== owner.service || header.address !== owner.address) {
    throw new LogStoreError(
      `Cannot use ${files.pathOf(segmentName(number))}: it is the log of service ` +
        `${header.service} at ${header.address}, expected ${owner.service} at ${owner.address}; ` +
        "move its directory away to start without those connections",
    );
  }
  if (header.number !== number) {
    throw refuse(0, { expected: `segment ${number}`, found: `${header.number}` });
  }
  if (result.segments.length === 0) result.nextSeq = header.firstSeq;
  else if (header.firstSeq !== result.nextSeq) {
    const found = `one that begins with ${header.firstSeq}`;
    throw refuse(0, { expected: `message ${result.nextSeq}`, found });
  }
  let at = HEADER_OCTETS;
  while (at < bytes.length) {
    const place = { bytes, at, mark: header.mark };
    const record = decodeRecord(place, result.nextSeq);
    if ("body" in record) {
      take(record, number);
      result.records++;
      result.nextSeq++;
      at += recordOctets(record.body.length);
      continue;
    }
    // Torn, if it never was stored: then no later record says that it was.
    if (!isLast || storedAfter(place) >= result.nextSeq) throw refuse(at, record);
    return at;
  }
  return at;
}

/** Appends to a log. */
export class SegmentWriter {
  readonly #files: LogFiles;
  readonly #owner: LogOwner;
  /** Grows to what the largest group needs. */
  #group = new Uint8Array(1 << 16);
  #grouped = 0;
  #file: LogFile | null = null;
  #mark = 0;
  #octets = 0;
  #oldest: number;
  #number: number;
  #nextSeq: number;
  #stored: number;
  #needsSync = false;

  /** Goes on after what was recovered; the first record needs `begin()` before it. */
  constructor(
    files: LogFiles,
    owner: LogOwner,
    after: Pick<Recovered, "segments" | "nextSegment" | "nextSeq">,
  ) {
    this.#files = files;
    this.#owner = owner;
    this.#oldest = after.segments[0] ?? after.nextSegment;
    this.#number = after.nextSegment - 1;
    this.#nextSeq = after.nextSeq;
    this.#stored = after.nextSeq - 1;
  }

  /** Octets that wait to be written. */
  get waiting(): number {
    return this.#grouped;
  }

  /** Whether a group has room for another record, whatever its length. */
  get hasRoom(): boolean {
    return this.#grouped <= GROUP_OCTETS;
  }

  /** Number of the segment that is appended to. */
  get segment(): number {
    return this.#number;
  }

  /** Oldest segment there is. */
  get oldest(): number {
    return this.#oldest;
  }

  /** Makes all durable and begins the next segment; `mark`: 32 random bits. */
  begin(mark: number): void {
    this.commit();
    this.#file?.close();
    this.#file = null;
    const number = this.#number + 1;
    const header = encodeHeader({ ...this.#owner, number, firstSeq: this.#nextSeq, mark });
    const file = this.#files.create(segmentName(number));
    try {
      file.write(header, 0);
      file.sync();
      this.#files.syncDirectory();
    } catch (error) {
      file.close();
      throw error;
    }
    this.#file = file;
    this.#mark = mark;
    this.#number = number;
    this.#octets = HEADER_OCTETS;
  }

  /** Takes a message; it is written by `write()` or `commit()`. */
  append({ epoch, wallMs, body }: Pick<LogRecord, "epoch" | "wallMs" | "body">): void {
    const seq = this.#nextSeq++;
    const record = { seq, stored: this.#stored, epoch, wallMs, body };
    const end = this.#grouped + recordOctets(body.length);
    if (end > this.#group.length) {
      const larger = new Uint8Array(Math.max(end, 2 * this.#group.length));
      larger.set(this.#group);
      this.#group = larger;
    }
    const place = { bytes: this.#group, at: this.#grouped, mark: this.#mark };
    this.#grouped += encodeRecord(record, place);
  }

  /**
   * Gives what waits to the kernel, which keeps it if no more than this process dies.
   *
   * @throws {Error} When that fails; what waits is kept, and may be written again.
   */
  write(): void {
    if (this.#grouped === 0) return;
    this.#file!.write(this.#group.subarray(0, this.#grouped), this.#octets);
    this.#octets += this.#grouped;
    this.#grouped = 0;
    this.#needsSync = true;
  }

  /** Makes every message durable that was appended. */
  commit(): void {
    this.write();
    if (!this.#needsSync) return;
    this.#file!.sync();
    this.#needsSync = false;
    this.#stored = this.#nextSeq - 1;
  }

  /** Removes segments with numbers below `number`, but never the one that is appended to. */
  removeBelow(number: number): void {
    while (this.#oldest < Math.min(number, this.#number)) {
      this.#files.remove(segmentName(this.#oldest));
      this.#files.syncDirectory();
      this.#oldest++;
    }
  }

  /** Removes all that is on the disk: nobody is to go on from it. */
  clear(): void {
    this.close();
    this.#grouped = 0;
    this.#needsSync = false;
    this.#stored = this.#nextSeq - 1;
    for (const name of this.#files.list().sort()) {
      if (segmentNumber(name) === null) continue;
      this.#files.remove(name);
      this.#files.syncDirectory();
    }
    this.#oldest = this.#number + 1;
  }

  /** Closes the file. */
  close(): void {
    this.#file?.close();
    this.#file = null;
  }
}
