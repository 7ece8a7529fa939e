/**
 * date_header.ts - where in a stream of HTTP/1.x responses the clock shows
 *
 * Theory of operation
 * Two servers that answer the same request around a second's change differ in the value of `Date:`,
 * which is always 29 octets long (RFC 9110 section 5.6.7, IMF-fixdate), and in nothing else. `take()`
 * walks over a stream in order, whatever its cuts, and tells these octets from all others, so that a
 * digest can leave them out. What is left out depends on the stream alone.
 *
 *              "HTTP/1."            empty line               length known
 *   Probe ───────────────> Line ───────────────> Probe ───────────────────> Body ──> Probe
 *     │ no head, no length  │ ^ Date                │ chunked
 *     v                     v │                     └──> Size ──> Chunk ──> Size ... Trailer ──> Probe
 *   Plain               Date, Length
 *
 * After a head the next response may begin at once (1xx, 204, 304, an answer to HEAD), so "HTTP/1." is
 * looked for before octets count as a body. A stream that does not begin with it is Plain for good, and
 * so is one whose body goes on until the end, or whose framing is broken: then nothing is left out any
 * more. Names are taken in any case, with one space after the colon (what servers write).
 *
 * Sources: RFC 9110 sections 5.6.7 and 6.6.1, RFC 9112 sections 6 and 7.1.
 */

/** Where in the stream of responses the next octet stands. */
const enum Mode {
  /** "HTTP/1." may begin; `left` octets of a body may instead. The state of a new stream. */
  Probe = 0,
  /** In a head. */
  Line,
  /** In the value of Date; `column` octets of it are left. */
  Date,
  /** In the value of Content-Length. */
  Length,
  /** In a body, or in a chunk and the line's end after it: `left` octets. */
  Body,
  /** In the line with a chunk's size. */
  Size,
  /** In the rest of that line. */
  SizeEnd,
  /** In the lines after the last chunk. */
  Trailer,
  /** Every octet counts from here on. */
  Plain,
}

/** Octets of an IMF-fixdate. */
const DATE_LENGTH: u32 = 29;
/** A body this long is not what a server means. */
export const LENGTH_MAX: u64 = 1 << 53;

const START = memory.data<u8>([72, 84, 84, 80, 47, 49, 46]); // HTTP/1.
const START_LENGTH: u32 = 7;

// The names that `narrow()` tells apart.
const DATE: u32 = 1;
export const CONTENT_LENGTH: u32 = 2;
export const CHUNKED: u32 = 4;
export const CONNECTION: u32 = 8;
const NAMES: u32 = DATE | CONTENT_LENGTH | CHUNKED;
/** A longer beginning of a line is none of the names. */
export const NAME_MAX: u32 = 26;

const LF: u32 = 10;
const CR: u32 = 13;

// The names in lower case, one after the other in each column, so that one load serves all four.
// deno-fmt-ignore
const COLUMNS = memory.data<u8>([
  // d a t e : _   content-length:_   transfer-encoding:_chunked   connection:
  100,  99, 116,  99,    97, 111, 114, 111,   116, 110,  97, 110,   101, 116, 110, 110,
   58, 101, 115, 101,    32, 110, 102,  99,     0, 116, 101, 116,     0,  45, 114, 105,
    0, 108,  45, 111,     0, 101, 101, 110,     0, 110, 110,  58,     0, 103,  99,   0,
    0, 116, 111,   0,     0, 104, 100,   0,     0,  58, 105,   0,     0,  32, 110,   0,
    0,   0, 103,   0,     0,   0,  58,   0,     0,   0,  32,   0,     0,   0,  99,   0,
    0,   0, 104,   0,     0,   0, 117,   0,     0,   0, 110,   0,     0,   0, 107,   0,
    0,   0, 101,   0,     0,   0, 100,   0,
]);

/** Where a stream of responses stands; all zero at its start. */
@unmanaged
export class Heads {
  /** Octets of the body or chunk that are left. */
  left: u64 = 0;
  mode: u32 = 0;
  /** Octets of "HTTP/1.", of the line or of a date. */
  column: u32 = 0;
  /** Names that the line may still begin with. */
  alive: u32 = 0;
  /** The body comes in chunks. */
  chunked: u32 = 0;
}

/**
 * Takes some of the next `length` octets of the stream, at least one in two calls.
 *
 * @returns how many octets were taken that count; below zero, how many that do not.
 */
export function take(h: Heads, from: usize, length: u32): i32 {
  if (h.mode == Mode.Plain) return <i32> length;
  if (h.mode == Mode.Body) return <i32> takeBody(h, length);
  if (h.mode == Mode.Date) {
    const masked = takeDate(h, from, length);
    if (masked) return -<i32> masked;
  }
  const end = from + length;
  let p = from;
  while (p < end) {
    const octet: u32 = load<u8>(p);
    switch (h.mode) {
      case Mode.Probe: {
        if (!probe(h, octet)) continue;
        break;
      }
      case Mode.Line: {
        if (h.alive) line(h, octet);
        else p = skipLine(h, p, end);
        break;
      }
      case Mode.Length: {
        if (octet - 48 > 9) {
          h.mode = Mode.Line;
          continue;
        }
        h.left = h.left * 10 + (octet - 48);
        if (h.left > LENGTH_MAX) h.mode = Mode.Plain;
        break;
      }
      case Mode.Size: {
        if (!chunkSize(h, octet)) continue;
        break;
      }
      case Mode.SizeEnd: {
        // The chunk's own line end belongs to what is left.
        if (octet == LF) h.mode = h.left ? Mode.Body : Mode.Trailer;
        if (octet == LF && h.left) h.left += 2;
        break;
      }
      case Mode.Trailer: {
        if (octet == LF) {
          if (h.column == 0) {
            h.mode = Mode.Probe;
            h.chunked = 0;
          }
          h.column = 0;
        } else if (octet != CR) h.column = 1;
        break;
      }
      default:
        return <i32> (p - from);
    }
    p++;
  }
  return <i32> length;
}

function takeBody(h: Heads, length: u32): u32 {
  if (<u64> length < h.left) {
    h.left -= length;
    return length;
  }
  const taken = <u32> h.left;
  h.left = 0;
  h.column = 0;
  h.mode = h.chunked ? Mode.Size : Mode.Probe;
  return taken;
}

function takeDate(h: Heads, from: usize, length: u32): u32 {
  let taken: u32 = 0;
  while (taken < length && h.column) {
    const octet: u32 = load<u8>(from + taken);
    if (octet == CR || octet == LF) break;
    h.column--;
    taken++;
  }
  if (taken < length) {
    h.mode = Mode.Line;
    h.column = 1;
    h.alive = 0;
  }
  return taken;
}

/** False when the octet is to be looked at again in the mode that is set now. */
function probe(h: Heads, octet: u32): bool {
  const column = h.column;
  if (octet == load<u8>(START + column)) {
    h.column = column + 1;
    if (column + 1 == START_LENGTH) {
      h.mode = Mode.Line;
      h.alive = 0;
      h.left = 0;
      h.chunked = 0;
    }
    return true;
  }
  h.column = 0;
  if (h.chunked) {
    // No chunk's size begins like a head.
    h.mode = column ? Mode.Plain : Mode.Size;
    h.left = 0;
  } else if (!h.left || h.left < column) h.mode = Mode.Plain;
  else {
    // What looked like a head was the body's own.
    h.left -= column;
    h.mode = h.left ? Mode.Body : Mode.Probe;
  }
  return false;
}

/** One octet of a line whose name is not known yet. */
function line(h: Heads, octet: u32): void {
  if (octet == LF) {
    endLine(h);
    return;
  }
  const column = h.column;
  if (octet == CR) {
    if (column) h.alive = 0;
    return;
  }
  const alive = narrow(h.alive, column, octet);
  h.column = column + 1;
  h.alive = alive;
  if (alive == DATE && column == 5) {
    h.mode = Mode.Date;
    h.column = DATE_LENGTH;
  } else if (alive == CONTENT_LENGTH && column == 15) {
    h.mode = Mode.Length;
    h.left = 0;
    h.alive = 0;
  } else if (alive == CHUNKED && column + 1 == NAME_MAX) {
    h.chunked = 1;
    h.alive = 0;
  }
}

/** Of the names `alive`, those that have `octet`, in any case, at `column` (below NAME_MAX). */
export function narrow(alive: u32, column: u32, octet: u32): u32 {
  const wanted = load<u32>(COLUMNS + (column << 2));
  const lower = octet - 65 < 26 ? octet | 32 : octet;
  if (lower != (wanted & 255)) alive &= ~DATE;
  if (lower != ((wanted >>> 8) & 255)) alive &= ~CONTENT_LENGTH;
  if (lower != ((wanted >>> 16) & 255)) alive &= ~CHUNKED;
  if (lower != (wanted >>> 24)) alive &= ~CONNECTION;
  return alive;
}

/** The value of a hexadecimal digit; 16 for what is none. */
export function hexDigit(octet: u32): u32 {
  const lower = octet | 32;
  return octet - 48 <= 9 ? octet - 48 : lower - 97 <= 5 ? lower - 87 : 16;
}

/** Goes to the end of a line that says nothing to us; returns where its last octet in hand stands. */
function skipLine(h: Heads, p: usize, end: usize): usize {
  while (p < end && load<u8>(p) != LF) p++;
  if (p == end) return end - 1;
  endLine(h);
  return p;
}

function endLine(h: Heads): void {
  // An empty line ends the head. Only the line in which nothing was seen has no column.
  if (h.column == 0) h.mode = Mode.Probe;
  h.column = 0;
  h.alive = NAMES;
}

/** False when the octet is to be looked at again in the mode that is set now. */
function chunkSize(h: Heads, octet: u32): bool {
  const digit = hexDigit(octet);
  if (digit < 16) {
    h.left = (h.left << 4) | digit;
    h.column = 1;
    if (h.left > LENGTH_MAX) h.mode = Mode.Plain;
    return true;
  }
  h.mode = h.column ? Mode.SizeEnd : Mode.Plain;
  h.column = 0;
  return false;
}
