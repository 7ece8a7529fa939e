/**
 * record.ts - how messages lie in a segment of a service's log on disk
 *
 * A segment is a header and records after it, all little-endian:
 *
 *   header   | magic 8 | crc u32 | number u32 | first seq u64 | service length u8, text 63
 *            | address length u8, text 35 | mark u32 |                             128 octets
 *   record   | mark u32 | crc u32 | length u32 | epoch u32 | seq u64 | stored u64 | wall clock u64
 *            | body, padded with zeros to 8 octets |                               40 octets before it
 *
 * `crc` (CRC-32 of IEEE 802.3, zlib's) is of all that follows it, padding included. The mark is random:
 * a record's checksum begins with it, so that no client can say what passes for a record. `seq` counts the
 * messages of a service for ever, without gaps. `stored` says up to which message all was on the disk
 * when this one was written: if a record is damaged, any later one tells whether it ever was whole.
 * The wall clock is in milliseconds since 1970. A body is what the core tells a standby
 * (core/records.ts); an empty one only says the epoch.
 *
 * `epoch` is the term that the log is whole in: it holds all that was let out in that term up to here, so
 * who finds that no newer one was given out may go on from it. 0: it does not, because it is still being
 * told of connections that lived before it was begun, or because it is about to be removed.
 */
import { crc32 } from "node:zlib";

/** Octets of a segment's header. */
export const HEADER_OCTETS = 128;
/** Octets before a record's body. */
export const RECORD_HEAD_OCTETS = 40;
/** Longest body that is taken for one, octets: as long as a message of the core may be. */
export const BODY_MAX = 4 << 20;

/** "HFLOG", and the format's version. */
const SEGMENT_MAGIC = 0x0002_474f_4c46_48n;
const SERVICE_AT = 24;
const SERVICE_MAX = 63;
const ADDRESS_AT = 88;
const ADDRESS_MAX = 35;
const MARK_AT = 124;

/** Whose log it is. */
export interface LogOwner {
  /** Name of the service. */
  service: string;
  /** Its address, canonical text. */
  address: string;
}

/** What stands in a segment's header. */
export interface SegmentHeader extends LogOwner {
  /** Segments are numbered from 1, without gaps. */
  number: number;
  /** Number of the first message in it. */
  firstSeq: number;
  /** What its records begin with: 32 random bits. */
  mark: number;
}

/** One message. */
export interface LogRecord {
  /** Counts the service's messages. */
  seq: number;
  /** All messages up to this one were on the disk when it was written. */
  stored: number;
  /** Term that the log is whole in as far as this message goes; 0 for none. */
  epoch: number;
  /** When, milliseconds since 1970. */
  wallMs: number;
  /** What the core tells a standby. */
  body: Uint8Array;
}

/** Records begin at multiples of so many octets. */
const ALIGNMENT = 8;

/** Octets that a record with a body of `length` octets takes. */
export function recordOctets(length: number): number {
  return RECORD_HEAD_OCTETS + ((length + ALIGNMENT - 1) & ~(ALIGNMENT - 1));
}

/**
 * A segment's header.
 *
 * @throws {RangeError} When a text is too long for it.
 */
export function encodeHeader(header: SegmentHeader): Uint8Array {
  const bytes = new Uint8Array(HEADER_OCTETS);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, SEGMENT_MAGIC, true);
  view.setUint32(12, header.number, true);
  view.setBigUint64(16, BigInt(header.firstSeq), true);
  putText(bytes, SERVICE_AT, header.service, SERVICE_MAX);
  putText(bytes, ADDRESS_AT, header.address, ADDRESS_MAX);
  view.setUint32(MARK_AT, header.mark, true);
  view.setUint32(8, crc32(bytes.subarray(12)), true);
  return bytes;
}

function putText(bytes: Uint8Array, at: number, text: string, most: number): void {
  const octets = new TextEncoder().encode(text);
  if (octets.length > most) {
    throw new RangeError(
      `Cannot log for ${text}: it has ${octets.length} octets, most are ${most}`,
    );
  }
  bytes[at] = octets.length;
  bytes.set(octets, at + 1);
}

/** The header that a file begins with; null when it is none, whole and unaltered. */
export function decodeHeader(bytes: Uint8Array): SegmentHeader | null {
  if (bytes.length < HEADER_OCTETS) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_OCTETS);
  if (view.getBigUint64(0, true) !== SEGMENT_MAGIC) return null;
  if (view.getUint32(8, true) !== crc32(bytes.subarray(12, HEADER_OCTETS))) return null;
  const text = (at: number) => new TextDecoder().decode(bytes.subarray(at + 1, at + 1 + bytes[at]));
  return {
    number: view.getUint32(12, true),
    firstSeq: Number(view.getBigUint64(16, true)),
    service: text(SERVICE_AT),
    address: text(ADDRESS_AT),
    mark: view.getUint32(MARK_AT, true),
  };
}

/** Where a record is, or is to be. */
export interface RecordPlace {
  /** A segment, or a group for one. */
  bytes: Uint8Array;
  /** Where the record begins. */
  at: number;
  /** The segment's. */
  mark: number;
}

/** Writes a record where there must be room for it; returns its octets. */
export function encodeRecord(record: LogRecord, { bytes, at, mark }: RecordPlace): number {
  const { body } = record;
  const octets = recordOctets(body.length);
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, octets);
  view.setUint32(0, mark, true);
  view.setUint32(8, body.length, true);
  view.setUint32(12, record.epoch, true);
  view.setBigUint64(16, BigInt(record.seq), true);
  view.setBigUint64(24, BigInt(record.stored), true);
  view.setBigUint64(32, BigInt(Math.trunc(record.wallMs)), true);
  bytes.set(body, at + RECORD_HEAD_OCTETS);
  bytes.fill(0, at + RECORD_HEAD_OCTETS + body.length, at + octets);
  view.setUint32(4, crc32(bytes.subarray(at + 8, at + octets), mark), true);
  return octets;
}

/** What is wrong with octets that are no whole record. */
export interface BadRecord {
  /** In words, for people: what was expected there. */
  expected: string;
  /** And what was found. */
  found: string;
}

/**
 * The record at a place.
 *
 * @param seq The number it must have; null for any.
 */
export function decodeRecord(place: RecordPlace, seq: number | null): LogRecord | BadRecord {
  const { bytes, at, mark } = place;
  const left = bytes.length - at;
  if (left < RECORD_HEAD_OCTETS) {
    return { expected: `a record's head of ${RECORD_HEAD_OCTETS} octets`, found: `${left}` };
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, left);
  const begins = view.getUint32(0, true);
  if (begins !== mark) return { expected: `the mark ${hex(mark)}`, found: hex(begins) };
  const length = view.getUint32(8, true);
  if (length > BODY_MAX || recordOctets(length) > left) {
    const most = Math.min(BODY_MAX, left - RECORD_HEAD_OCTETS);
    return { expected: `a body of at most ${most} octets`, found: `${length}` };
  }
  const crc = crc32(bytes.subarray(at + 8, at + recordOctets(length)), mark);
  const told = view.getUint32(4, true);
  if (crc !== told) return { expected: `checksum ${hex(told)}`, found: hex(crc) };
  const found = Number(view.getBigUint64(16, true));
  if (seq !== null && found !== seq) return { expected: `message ${seq}`, found: `${found}` };
  const start = at + RECORD_HEAD_OCTETS;
  return {
    seq: found,
    stored: Number(view.getBigUint64(24, true)),
    epoch: view.getUint32(12, true),
    wallMs: Number(view.getBigUint64(32, true)),
    body: bytes.subarray(start, start + length),
  };
}

/** Up to which message all was stored, by any whole record that lies behind a place; 0 for none. */
export function storedAfter({ bytes, at, mark }: RecordPlace): number {
  let most = 0;
  for (at += ALIGNMENT; at + RECORD_HEAD_OCTETS <= bytes.length; at += ALIGNMENT) {
    const record = decodeRecord({ bytes, at, mark }, null);
    if ("body" in record) most = Math.max(most, record.stored);
  }
  return most;
}

function hex(value: number): string {
  return value.toString(16).padStart(8, "0");
}
