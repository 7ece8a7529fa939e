/** bytes.ts - fields in network byte order, and modulo-2^32 comparison (RFC 9293 section 3.4). */

/** The 16-bit field at `at`. */
export function get16(at: usize): u32 {
  return bswap<u16>(load<u16>(at));
}
/** The 32-bit field at `at`. */
export function get32(at: usize): u32 {
  return bswap<u32>(load<u32>(at));
}
/** Writes the 16-bit field at `at`. */
export function put16(at: usize, value: u32): void {
  store<u16>(at, bswap<u16>(<u16> value));
}
/** Writes the 32-bit field at `at`. */
export function put32(at: usize, value: u32): void {
  store<u32>(at, bswap<u32>(value));
}
/** True when `a` lies before `b`. */
export function before(a: u32, b: u32): bool {
  return <i32> (a - b) < 0;
}
/** True when `a` lies after `b`. */
export function after(a: u32, b: u32): bool {
  return <i32> (a - b) > 0;
}
/** The later of two numbers. */
export function later(a: u32, b: u32): u32 {
  return <i32> (a - b) > 0 ? a : b;
}
/** The earlier of two numbers. */
export function earlier(a: u32, b: u32): u32 {
  return <i32> (a - b) < 0 ? a : b;
}
