/**
 * http_message.ts - where one HTTP/1.1 message ends
 *
 * Theory of operation
 * `takeMessage()` walks over a request or a response in order, whatever its cuts, and stops behind its last
 * octet. It is strict where date_header.ts is lenient: whoever reads a message in another way than the
 * server does finds an end where there is none. What could be read in two ways makes it Lost, for good.
 *
 *   request   Method ─> Target ─> Version ─┐                         ┌─ no body ─────────────> Done
 *                                          ├─> Name ─> value ─> Name ┼─ Content-Length ─> Body ─┘ ^
 *   response  Version ─> Status ─> Reason ─┘                         └─ chunked ─> Size ─> Chunk  │
 *                                                                          ^ └──────┘ └> trailer ─┘
 *   anything else ─────────────────────────────────────────────────────────────────────────────> Lost
 *
 * Lost: another version; a method that is not of METHODS (CONNECT is none); lines that do not end with
 * CR LF, begin with a space (obs-fold) or hold control characters; names with other octets than letters,
 * digits, "-", "_" and "."; a Content-Length that comes twice, beside Transfer-Encoding, or is no plain
 * number; a Transfer-Encoding other than "chunked"; a Connection other than "keep-alive", as after it the
 * connection ends or speaks something else; status 101; a final response that goes on until the connection
 * ends; extensions of chunks.
 *
 * Limits: FRAMING_MAX octets of one message that are no body.
 * Sources: RFC 9112 sections 2 to 7 and 11.2 (request smuggling), RFC 9110 section 6.4.1.
 */
import {
  CHUNKED,
  CONNECTION,
  CONTENT_LENGTH,
  hexDigit,
  LENGTH_MAX,
  NAME_MAX,
  narrow,
} from "./date_header";

/** What the next octet belongs to. */
export const enum At {
  /** Nothing of the message was seen. */
  Start = 0,
  Method,
  Target,
  Version,
  Status,
  /** The rest of a status line. */
  Reason,
  /** The LF of a line in a head or trailer. */
  LineEnd,
  Name,
  /** A value that says nothing to us. */
  Value,
  Length,
  Coding,
  Option,
  /** The LF of an empty line. */
  HeadEnd,
  Body,
  Size,
  SizeEnd,
  Chunk,
  /** CR and LF after a chunk. */
  ChunkCr,
  ChunkLf,
  /** The message is over. */
  Done,
  Lost,
}

/** What is known of a message. */
export const enum Fact {
  IsResponse = 1,
  /** A request: its method is HEAD. A response: its request's is. */
  Head = 2,
  HasLength = 4,
  Chunked = 8,
  InTrailer = 16,
  /** 1xx: the response is still to come. */
  Interim = 32,
  /** 304: its length is that of a body which does not come. */
  NotModified = 64,
  /** 204. */
  NoContent = 128,
}

/** One message, as far as it was seen; all zero at the start of a request. 32 octets. */
@unmanaged
export class Message {
  /** Octets of body or chunk that are left; a number, or the method, that is being read. */
  left: u64 = 0;
  /** Octets of framing. */
  seen: u32 = 0;
  /** `At`. */
  at: u32 = 0;
  /** Octets of a name, a word or a number. */
  column: u32 = 0;
  /** Names that the line may still begin with. */
  alive: u32 = 0;
  /** `Fact`s. */
  facts: u32 = 0;
}

/** Octets of one message that are no body. */
const FRAMING_MAX: u32 = 1 << 16;
/** Digits of a chunk's size. */
const SIZE_DIGITS: u32 = 8;
const FRAMING_NAMES: u32 = CONTENT_LENGTH | CHUNKED | CONNECTION;

const VERSION = memory.data<u8>([72, 84, 84, 80, 47, 49, 46, 49]); // HTTP/1.1
const VERSION_LENGTH: u32 = 8;
const CHUNKED_WORD = memory.data<u8>([99, 104, 117, 110, 107, 101, 100]); // chunked
const CHUNKED_LENGTH: u32 = 7;
const KEEP_ALIVE = memory.data<u8>([107, 101, 101, 112, 45, 97, 108, 105, 118, 101]); // keep-alive
const KEEP_ALIVE_LENGTH: u32 = 10;

// Methods whose answers are framed as all are, as big-endian numbers (RFC 9110 section 9, RFC 5789).
const GET: u64 = 0x474554;
const PUT: u64 = 0x505554;
const HEAD: u64 = 0x48454144;
const POST: u64 = 0x504f5354;
const PATCH: u64 = 0x5041544348;
const DELETE: u64 = 0x44454c455445;
const OPTIONS: u64 = 0x4f5054494f4e53;

const TAB: u32 = 9;
const LF: u32 = 10;
const CR: u32 = 13;
const SPACE: u32 = 32;
const COLON: u32 = 58;

/** Begins the next message; `facts`: IsResponse, and Head if its request's method is. */
export function startMessage(m: Message, facts: u32): void {
  m.left = 0;
  m.seen = 0;
  m.at = At.Start;
  m.column = 0;
  m.alive = 0;
  m.facts = facts;
}

/** True when the whole head was seen. */
export function hasHead(m: Message): bool {
  return m.at >= <u32> At.Body && m.at != At.Lost;
}

/** True when it is Done or Lost: nothing more belongs to it. */
export function isOver(m: Message): bool {
  return m.at >= <u32> At.Done;
}

/** Passes over octets of a body, of the `length` that follow, without looking at them; returns how many. */
export function skipBody(m: Message, length: u32): u32 {
  if (m.at != At.Body && m.at != At.Chunk) return 0;
  const taken = <u64> length < m.left ? length : <u32> m.left;
  m.left -= taken;
  if (!m.left) m.at = m.at == At.Body ? At.Done : At.ChunkCr;
  return taken;
}

/** Takes the message's next octets; returns how many. Fewer than `length` when it is Done or Lost. */
export function takeMessage(m: Message, from: usize, length: u32): u32 {
  const end = from + length;
  let p = from;
  while (p < end && !isOver(m)) {
    const body = skipBody(m, <u32> (end - p));
    if (body) {
      p += body;
      continue;
    }
    const octet: u32 = load<u8>(p);
    m.at = next(m, octet);
    p++;
    if (++m.seen > FRAMING_MAX) m.at = At.Lost;
  }
  return <u32> (p - from);
}

/** What the octet after `octet` belongs to. */
function next(m: Message, octet: u32): u32 {
  switch (m.at) {
    case At.Start:
      if (m.facts & Fact.IsResponse) return version(m, octet);
      return method(m, octet);
    case At.Method:
      return method(m, octet);
    case At.Target:
      if (octet == SPACE) return m.column ? restart(m, At.Version) : At.Lost;
      m.column = 1;
      return octet > SPACE && octet != 127 ? At.Target : At.Lost;
    case At.Version:
      return version(m, octet);
    case At.Status:
      return status(m, octet);
    case At.Reason:
    case At.Value:
      if (octet == CR) return At.LineEnd;
      return isText(octet) ? m.at : At.Lost;
    case At.LineEnd:
      m.alive = FRAMING_NAMES;
      return octet == LF ? restart(m, At.Name) : At.Lost;
    case At.Name:
      return name(m, octet);
    case At.Length:
      return length(m, octet);
    case At.Coding:
      return word(m, octet, CHUNKED_WORD, CHUNKED_LENGTH);
    case At.Option:
      return word(m, octet, KEEP_ALIVE, KEEP_ALIVE_LENGTH);
    case At.HeadEnd:
      return octet == LF ? endHead(m) : At.Lost;
    case At.Size:
      return size(m, octet);
    case At.SizeEnd:
      if (octet != LF) return At.Lost;
      if (m.left) return At.Chunk;
      m.facts |= Fact.InTrailer;
      m.alive = FRAMING_NAMES;
      return restart(m, At.Name);
    case At.ChunkCr:
      return octet == CR ? At.ChunkLf : At.Lost;
    case At.ChunkLf:
      return octet == LF ? restart(m, At.Size) : At.Lost;
    default:
      return At.Lost;
  }
}

function restart(m: Message, at: u32): u32 {
  m.column = 0;
  return at;
}

function isText(octet: u32): bool {
  return (octet >= SPACE && octet != 127) || octet == TAB;
}

function isBlank(octet: u32): bool {
  return octet == SPACE || octet == TAB;
}

/** Octets of names that nobody reads in two ways. */
function isName(octet: u32): bool {
  return (octet | 32) - 97 < 26 || octet - 48 < 10 || octet == 45 || octet == 46 || octet == 95;
}

function method(m: Message, octet: u32): u32 {
  if (octet == SPACE) {
    const it = m.left;
    m.left = 0;
    if (it == HEAD) m.facts |= Fact.Head;
    const known = it == GET || it == HEAD || it == POST || it == PUT || it == DELETE ||
      it == PATCH || it == OPTIONS;
    return known ? restart(m, At.Target) : At.Lost;
  }
  if (octet - 65 >= 26 || m.column == 8) return At.Lost;
  m.column++;
  m.left = (m.left << 8) | octet;
  return At.Method;
}

function version(m: Message, octet: u32): u32 {
  const column = m.column;
  if (column < VERSION_LENGTH) {
    m.column++;
    return octet == load<u8>(VERSION + column) ? At.Version : At.Lost;
  }
  if (m.facts & Fact.IsResponse) return octet == SPACE ? restart(m, At.Status) : At.Lost;
  return octet == CR ? At.LineEnd : At.Lost;
}

function status(m: Message, octet: u32): u32 {
  if (m.column < 3) {
    m.column++;
    m.left = m.left * 10 + (octet - 48);
    return octet - 48 < 10 ? At.Status : At.Lost;
  }
  const code = <u32> m.left;
  m.left = 0;
  if (code < 100 || code > 599 || code == 101) return At.Lost;
  if (code < 200) m.facts |= Fact.Interim;
  if (code == 204) m.facts |= Fact.NoContent;
  if (code == 304) m.facts |= Fact.NotModified;
  if (octet == CR) return At.LineEnd;
  return octet == SPACE ? At.Reason : At.Lost;
}

function name(m: Message, octet: u32): u32 {
  const column = m.column;
  if (octet == CR) return column ? At.Lost : At.HeadEnd;
  const alive = m.alive;
  if (octet == COLON) return column ? value(m, alive, column) : At.Lost;
  if (!isName(octet)) return At.Lost;
  m.alive = alive && column < NAME_MAX ? narrow(alive, column, octet) : 0;
  m.column++;
  return At.Name;
}

/** The name is over, after `column` octets. */
function value(m: Message, alive: u32, column: u32): u32 {
  const isLength = alive == CONTENT_LENGTH && column == 14;
  const isCoding = alive == CHUNKED && column == 17;
  const isOption = alive == CONNECTION && column == 10;
  m.column = 0;
  if (!isLength && !isCoding && !isOption) return At.Value;
  if (m.facts & Fact.InTrailer) return At.Lost;
  if (isOption) return At.Option;
  if (m.facts & (Fact.HasLength | Fact.Chunked)) return At.Lost;
  m.facts |= isLength ? Fact.HasLength : Fact.Chunked;
  return isLength ? At.Length : At.Coding;
}

/** `column`: 0 before the digits, 1 in them, 2 behind them. */
function length(m: Message, octet: u32): u32 {
  if (octet - 48 < 10 && m.column < 2) {
    m.column = 1;
    m.left = m.left * 10 + (octet - 48);
    return m.left > LENGTH_MAX ? At.Lost : At.Length;
  }
  if (octet == CR) return m.column ? At.LineEnd : At.Lost;
  if (m.column == 1) m.column = 2;
  return isBlank(octet) ? At.Length : At.Lost;
}

/** The value is to be `text`, in any case; `column`: octets of it, and one more behind it. */
function word(m: Message, octet: u32, text: usize, textLength: u32): u32 {
  const column = m.column;
  if (octet == CR) return column >= textLength ? At.LineEnd : At.Lost;
  if (isBlank(octet) && (!column || column >= textLength)) {
    if (column == textLength) m.column++;
    return m.at;
  }
  const lower = octet - 65 < 26 ? octet | 32 : octet;
  if (column >= textLength || lower != load<u8>(text + column)) return At.Lost;
  m.column++;
  return m.at;
}

function size(m: Message, octet: u32): u32 {
  const digit = hexDigit(octet);
  if (digit < 16) {
    if (m.column == SIZE_DIGITS) return At.Lost;
    m.column++;
    m.left = (m.left << 4) | digit;
    return At.Size;
  }
  return octet == CR && m.column ? At.SizeEnd : At.Lost;
}

function endHead(m: Message): u32 {
  const facts = m.facts;
  if (facts & Fact.InTrailer) return At.Done;
  const isChunked = (facts & Fact.Chunked) != 0;
  const hasLength = (facts & Fact.HasLength) != 0;
  if (facts & (Fact.Interim | Fact.NoContent)) return isChunked || m.left ? At.Lost : At.Done;
  if (facts & Fact.IsResponse) {
    const isWithout = (facts & (Fact.Head | Fact.NotModified)) != 0;
    if (isWithout) return At.Done;
    if (!isChunked && !hasLength) return At.Lost;
  }
  if (isChunked) return restart(m, At.Size);
  return m.left ? At.Body : At.Done;
}
