/**
 * checksum.ts - the Internet checksum: RFC 1071 sums and RFC 1624 repair
 *
 * Sums are kept in the machine's byte order: the one's complement sum of byte-swapped words is the
 * byte-swapped sum (RFC 1071 section 2B), so octets are swapped neither on load nor on store.
 * A "sum" below is folded to 16 bits and not complemented.
 */

/** Folds a wide one's complement sum to 16 bits. */
export function fold(wide: u64): u32 {
  let s = (wide & 0xffffffff) + (wide >>> 32);
  s = (s & 0xffffffff) + (s >>> 32);
  let t = <u32> s;
  t = (t & 0xffff) + (t >>> 16);
  t = (t & 0xffff) + (t >>> 16);
  return t;
}

/**
 * One's complement sum of `length` octets at `at`, added to `initial`. An odd last octet is padded
 * with zero. Safe for at most 2 MiB: a 32-bit lane gains less than 2^17 for each 64 octets.
 */
export function sum(at: usize, length: u32, initial: u32): u32 {
  let wide: u64 = initial;
  let p = at;
  const end = at + length;
  if (length >= 64) {
    let a = i32x4.splat(0), b = a, c = a, d = a;
    const last = end - 64;
    while (p <= last) {
      a = i32x4.add(a, i32x4.extadd_pairwise_i16x8_u(v128.load(p)));
      b = i32x4.add(b, i32x4.extadd_pairwise_i16x8_u(v128.load(p, 16)));
      c = i32x4.add(c, i32x4.extadd_pairwise_i16x8_u(v128.load(p, 32)));
      d = i32x4.add(d, i32x4.extadd_pairwise_i16x8_u(v128.load(p, 48)));
      p += 64;
    }
    const ab = i64x2.add(
      i64x2.add(i64x2.extend_low_i32x4_u(a), i64x2.extend_high_i32x4_u(a)),
      i64x2.add(i64x2.extend_low_i32x4_u(b), i64x2.extend_high_i32x4_u(b)),
    );
    const cd = i64x2.add(
      i64x2.add(i64x2.extend_low_i32x4_u(c), i64x2.extend_high_i32x4_u(c)),
      i64x2.add(i64x2.extend_low_i32x4_u(d), i64x2.extend_high_i32x4_u(d)),
    );
    const all = i64x2.add(ab, cd);
    wide += <u64> i64x2.extract_lane(all, 0) + <u64> i64x2.extract_lane(all, 1);
  }
  while (p + 4 <= end) {
    wide += load<u32>(p);
    p += 4;
  }
  if (p + 2 <= end) {
    wide += load<u16>(p);
    p += 2;
  }
  if (p < end) wide += load<u8>(p);
  return fold(wide);
}

/**
 * The checksum after a 32-bit field changed (RFC 1624 equation 3): HC' = ~(~HC + ~m + m').
 * `odd` is 1 when the field starts at an odd offset of the summed octets: its words then straddle
 * ours and count byte-swapped.
 */
export function replace32(checksum: u32, before: u32, after: u32, odd: u32): u32 {
  let s: u32 = (~before & 0xffff) + (~before >>> 16) + (after & 0xffff) + (after >>> 16);
  s = (s & 0xffff) + (s >>> 16);
  s = (s & 0xffff) + (s >>> 16);
  if (odd) s = ((s << 8) | (s >>> 8)) & 0xffff;
  s += ~checksum & 0xffff;
  s = (s & 0xffff) + (s >>> 16);
  s = (s & 0xffff) + (s >>> 16);
  return ~s & 0xffff;
}
