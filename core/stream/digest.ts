/**
 * digest.ts - 64 bits that tell two output streams apart
 *
 * Theory of operation
 * Two replicas' servers must write the same octets. To compare them without sending them, each side
 * keeps a digest of all its server has written so far, and one tells the other its value at an offset.
 * Octets are given in stream order, each once, in any cuts; the value depends on nothing but them.
 *
 *   stream  | block of 4096 octets                    | block                   | ...
 *           | w0 w1 w2 w3 w4 w5 w6 w7 | w8 ...        16-bit words, signed, little-endian
 *             ╰lane0╯ ╰lane1╯ ╰lane2╯ ╰lane3╯         lane += key(word) * word, mod 2^32
 *
 *   end of a block    sum = round(round(sum + octets so far, lane0 | lane1), lane2 | lane3);  lanes = 0
 *   round(s, x)       rotl(s + x * P2, 31) * P1                                 (the round of XXH64)
 *   value             the same two rounds over what the current block holds so far
 *
 * A lane is linear, so a word may come in two halves and a vector in parts, and nothing but the lanes
 * themselves has to be remembered between two segments. One multiplication of eight words at a time
 * (pmaddwd) makes it about as fast as memory can be read.
 *
 * What it tells apart, by construction
 * The keys that meet in one lane are different primes above 2^14, in an order without any pattern, and
 * |key * difference| < 2^31. So within a block one changed word, two swapped words, and any change of two
 * words in a lane by less than 2^14 are always seen; so is another number of zeros. A round is one-to-one
 * in `sum` and in `x`: blocks do not commute, and a difference in one block is never undone by equal
 * blocks after it. Else it misses a difference inside one lane's four
 * octets by chance of about 2^-31, and one that touches eight octets in a row of 2^-62. Nobody who
 * may choose the octets is kept from making two streams with one value: it is no guard against that.
 *
 * The value of `Date:` in HTTP/1.x heads counts as zero: date_header.ts.
 *
 * A vector is read whole even when it holds fewer octets: up to 15 octets past the last one given must
 * be memory. All packets and blocks are followed by as much (see `init()`).
 */
import { Heads, take } from "./date_header";

/** Octets of a block, and of the table of keys: one for each word, 16 bit. */
const BLOCK_OCTETS: u32 = 4096;
/** Keys that meet in one lane. */
const KEYS: u32 = 512;
/** So many keys on, the next lane begins. */
const LANE_SHIFT: u32 = 128;
/** The largest prime below 2^15, and all keys are at most this. */
const KEY_MAX: u32 = 32749;
const P1: u64 = 0x9e3779b185ebca87;
const P2: u64 = 0xc2b2ae3d27d4eb4f;

const TABLE: usize = memory.data(4096, 16);
const PRIMES: usize = memory.data(1024, 16);

/** A digest of a stream's first `at` octets, and where its next octet stands; 52 octets. */
@unmanaged
export class Digest extends Heads {
  sum: u64 = 0;
  lane0: u32 = 0;
  lane1: u32 = 0;
  lane2: u32 = 0;
  lane3: u32 = 0;
  /** Octets so far, mod 2^32. */
  at: u32 = 0;
}

/** Fills the table of keys. */
export function formatDigests(): void {
  let candidate = KEY_MAX;
  for (let i: u32 = 0; i < KEYS; candidate -= 2) {
    if (isPrime(candidate)) store<u16>(PRIMES + (i++ << 1), <u16> candidate);
  }
  // Knuth's shuffle (3.4.2 P), by a linear congruential generator (Numerical Recipes' constants).
  let random: u32 = 1;
  for (let i = KEYS - 1; i > 0; i--) {
    random = random * 1664525 + 1013904223;
    const j = (random >>> 16) % (i + 1);
    const key = load<u16>(PRIMES + (i << 1));
    store<u16>(PRIMES + (i << 1), load<u16>(PRIMES + (j << 1)));
    store<u16>(PRIMES + (j << 1), key);
  }
  for (let word: u32 = 0; word < BLOCK_OCTETS >> 1; word++) {
    const lane = (word >>> 1) & 3;
    const inLane = ((word >>> 3) << 1) | (word & 1);
    const key = (inLane + lane * LANE_SHIFT) % KEYS;
    store<u16>(TABLE + (word << 1), load<u16>(PRIMES + (key << 1)));
  }
}

function isPrime(odd: u32): bool {
  for (let divisor: u32 = 3; divisor * divisor <= odd; divisor += 2) {
    if (odd % divisor == 0) return false;
  }
  return true;
}

/** Makes it the digest of an empty stream. */
export function startDigest(d: Digest): void {
  memory.fill(changetype<usize>(d), 0, offsetof<Digest>());
  d.sum = P1;
}

/** The digest of an empty stream. */
export function emptyValue(): u64 {
  return round(round(P1, 0), 0);
}

/** Takes the stream's next `length` octets. */
export function extendDigest(d: Digest, from: usize, length: u32): void {
  while (length) {
    const taken = take(d, from, length);
    if (taken > 0) add(d, from, <u32> taken);
    else skip(d, <u32> -taken);
    const passed = <u32> abs(taken);
    from += passed;
    length -= passed;
  }
}

/** The digest of all octets taken so far; more may follow. */
export function digestValue(d: Digest): u64 {
  return round(
    round(d.sum + d.at, <u64> d.lane0 | (<u64> d.lane1 << 32)),
    <u64> d.lane2 | (<u64> d.lane3 << 32),
  );
}

function round(sum: u64, x: u64): u64 {
  return rotl<u64>(sum + x * P2, 31) * P1;
}

/** The block is full: its lanes go into the sum. */
function fold(d: Digest): void {
  d.sum = digestValue(d);
  v128.store(lanesOf(d), i64x2.splat(0));
}

function lanesOf(d: Digest): usize {
  return changetype<usize>(d) + offsetof<Digest>("lane0");
}

/** Octets that count as zero: only their place does. */
function skip(d: Digest, length: u32): void {
  while (length) {
    const room: u32 = BLOCK_OCTETS - (d.at & (BLOCK_OCTETS - 1));
    const part = length < room ? length : room;
    d.at += part;
    length -= part;
    if (part == room) fold(d);
  }
}

function add(d: Digest, from: usize, length: u32): void {
  const lanes = lanesOf(d);
  while (length) {
    const place: u32 = d.at & (BLOCK_OCTETS - 1);
    const room: u32 = BLOCK_OCTETS - place;
    const part = length < room ? length : room;
    v128.store(lanes, addToBlock(v128.load(lanes), place, from, part));
    d.at += part;
    from += part;
    length -= part;
    if (part == room) fold(d);
  }
}

/** The lanes of a block after `length` more octets from `place` on; they end with the block at most. */
function addToBlock(lanes: v128, place: u32, from: usize, length: u32): v128 {
  let key = TABLE + (place & ~15);
  const offset: u32 = place & 15;
  if (offset || length < 16) {
    const room: u32 = 16 - offset;
    const part = length < room ? length : room;
    lanes = i32x4.add(lanes, i32x4.dot_i16x8_s(partOf(from, offset, part), v128.load(key)));
    from += part;
    length -= part;
    key += 16;
  }
  if (length >= 64) {
    let b = i64x2.splat(0), c = b, e = b;
    do {
      lanes = i32x4.add(lanes, i32x4.dot_i16x8_s(v128.load(from), v128.load(key)));
      b = i32x4.add(b, i32x4.dot_i16x8_s(v128.load(from, 16), v128.load(key, 16)));
      c = i32x4.add(c, i32x4.dot_i16x8_s(v128.load(from, 32), v128.load(key, 32)));
      e = i32x4.add(e, i32x4.dot_i16x8_s(v128.load(from, 48), v128.load(key, 48)));
      from += 64;
      key += 64;
      length -= 64;
    } while (length >= 64);
    lanes = i32x4.add(i32x4.add(lanes, b), i32x4.add(c, e));
  }
  while (length >= 16) {
    lanes = i32x4.add(lanes, i32x4.dot_i16x8_s(v128.load(from), v128.load(key)));
    from += 16;
    key += 16;
    length -= 16;
  }
  if (!length) return lanes;
  return i32x4.add(lanes, i32x4.dot_i16x8_s(partOf(from, 0, length), v128.load(key)));
}

/** A vector with `length` octets from `from` at `offset`, and zeros around them. */
function partOf(from: usize, offset: u32, length: u32): v128 {
  const place = i8x16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  // An index past 15, as a negative one is, gives zero.
  const moved = i8x16.swizzle(v128.load(from), i8x16.sub(place, i8x16.splat(<i8> offset)));
  return v128.and(moved, i8x16.lt_u(place, i8x16.splat(<i8> (offset + length))));
}
