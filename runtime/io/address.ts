/**
 * address.ts - IP addresses and endpoints as text, as octets and as the kernel's sockaddr
 *
 * Theory of operation
 * Text is checked once, at the door; after that an address is its octets in network order beside the
 * one canonical text of RFC 5952, so equal addresses have equal texts. Nothing here does I/O.
 *
 *   sockaddr_in    family u16 | port u16be | address 4 | zero 8                       16 octets
 *   sockaddr_in6   family u16 | port u16be | flowinfo u32 | address 16 | scope u32    28 octets
 *
 * The family is in the byte order of the host (little-endian), all else in the network's.
 * Not supported: zones ("fe80::1%eth0"); use an address that is valid without one.
 * Sources: ip(7), ipv6(7), RFC 4291 section 2.2, RFC 5952 section 4.
 */

/** Address family of IPv4; socket(2). */
export const AF_INET = 2;
/** Address family of IPv6; socket(2). */
export const AF_INET6 = 10;
/** Octets of a `sockaddr_in`. */
export const SOCKADDR_IN_LENGTH = 16;
/** Octets of a `sockaddr_in6`, the longest used here. */
export const SOCKADDR_IN6_LENGTH = 28;

const PORT_MAX = 65535;

/** An IP address. */
export interface IpAddress {
  /** 4 or 6. */
  version: 4 | 6;
  /** Canonical text. */
  text: string;
  /** 4 or 16 octets in network order. */
  bytes: Uint8Array<ArrayBuffer>;
}

/** An IP address and a port. */
export interface Endpoint {
  /** The address. */
  address: IpAddress;
  /** 0 to 65535; 0 lets the kernel choose where it may. */
  port: number;
}

/**
 * Reads an IPv4 or IPv6 address.
 *
 * @throws {RangeError} When `text` is not one.
 *
 * @example
 * ```ts
 * import { strictEqual } from "node:assert/strict";
 * strictEqual(parseAddress("FD00:0::01").text, "fd00::1");
 * ```
 */
export function parseAddress(text: string): IpAddress {
  const bytes = parseIpv4(text) ?? parseIpv6(text);
  if (bytes !== null) return addressOfBytes(bytes);
  throw new RangeError(
    `Cannot read "${text}" as an address: allowed is IPv4 ("10.0.0.1") or IPv6 without a zone ("fd00::1")`,
  );
}

/** The octets of a dotted quad; null when `text` is not one. Leading zeros would be octal to some. */
function parseIpv4(text: string): Uint8Array<ArrayBuffer> | null {
  if (!/^(?:(?:0|[1-9]\d{0,2})(?:\.(?!$)|$)){4}$/.test(text)) return null;
  const parts = text.split(".").map(Number);
  return parts.every((part) => part <= 255) ? Uint8Array.from(parts) : null;
}

/** The octets of an IPv6 address; null when `text` is not one. */
function parseIpv6(text: string): Uint8Array<ArrayBuffer> | null {
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const [head, tail] = halves.map((half, index) => groupsOf(half, index === halves.length - 1));
  if (head === null || tail === null) return null;
  const zeros = 8 - head.length - (tail?.length ?? 0);
  if (tail === undefined ? zeros !== 0 : zeros < 1) return null;
  const groups = [...head, ...new Array<number>(zeros).fill(0), ...(tail ?? [])];
  return Uint8Array.from(groups.flatMap((group) => [group >> 8, group & 0xff]));
}

/** The 16-bit groups of a part of an IPv6 address; a dotted quad at the very end makes two. */
function groupsOf(part: string, isLast: boolean): number[] | null {
  if (part === "") return [];
  const groups: number[] = [];
  const words = part.split(":");
  for (const [index, word] of words.entries()) {
    const quad = isLast && index === words.length - 1 ? parseIpv4(word) : null;
    if (quad !== null) groups.push((quad[0] << 8) | quad[1], (quad[2] << 8) | quad[3]);
    else if (/^[0-9a-f]{1,4}$/i.test(word)) groups.push(parseInt(word, 16));
    else return null;
  }
  return groups;
}

/**
 * The address made of `bytes`, which are copied.
 *
 * @throws {RangeError} Unless there are 4 or 16 of them.
 */
export function addressOfBytes(bytes: Uint8Array): IpAddress {
  const copy = Uint8Array.from(bytes);
  if (copy.length === 4) return { version: 4, text: copy.join("."), bytes: copy };
  if (copy.length === 16) return { version: 6, text: formatIpv6(copy), bytes: copy };
  throw new RangeError(`Cannot make an address of ${copy.length} octets: allowed are 4 or 16`);
}

/** RFC 5952: lower case, no leading zeros, the longest run of two or more zero groups shortened. */
function formatIpv6(bytes: Uint8Array): string {
  const groups: number[] = [];
  for (let i = 0; i < 16; i += 2) groups.push((bytes[i] << 8) | bytes[i + 1]);
  let best = 0;
  let bestLength = 1;
  for (let start = 0; start < 8; start++) {
    let end = start;
    while (end < 8 && groups[end] === 0) end++;
    if (end - start > bestLength) {
      best = start;
      bestLength = end - start;
    }
  }
  const hex = groups.map((group) => group.toString(16));
  if (bestLength === 1) return hex.join(":");
  return `${hex.slice(0, best).join(":")}::${hex.slice(best + bestLength).join(":")}`;
}

/**
 * Reads "10.0.0.1:7946" or "[fd00::1]:7946".
 *
 * @throws {RangeError} Naming the text and what is allowed.
 */
export function parseHostPort(text: string): Endpoint {
  const match = /^(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  const bytes = match?.[1] === undefined ? parseIpv4(match?.[2] ?? "") : parseIpv6(match[1]);
  if (bytes === null || port > PORT_MAX) {
    throw new RangeError(
      `Cannot read "${text}" as an address and port: allowed is "10.0.0.1:7946" or "[fd00::1]:7946" ` +
        `with a port up to ${PORT_MAX}`,
    );
  }
  return { address: addressOfBytes(bytes), port };
}

/** The text that {@linkcode parseHostPort} reads. */
export function formatHostPort(endpoint: Endpoint): string {
  const { address, port } = endpoint;
  return address.version === 4 ? `${address.text}:${port}` : `[${address.text}]:${port}`;
}

/** The kernel's form of an endpoint: `sockaddr_in` or `sockaddr_in6`. */
export function encodeSockaddr(endpoint: Endpoint): Uint8Array<ArrayBuffer> {
  const { address, port } = endpoint;
  const isIpv4 = address.version === 4;
  const bytes = new Uint8Array(isIpv4 ? SOCKADDR_IN_LENGTH : SOCKADDR_IN6_LENGTH);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, isIpv4 ? AF_INET : AF_INET6, true);
  view.setUint16(2, port, false);
  bytes.set(address.bytes, isIpv4 ? 4 : 8);
  return bytes;
}

/**
 * The endpoint in a kernel's sockaddr; an IPv4 address mapped into IPv6 stays IPv6.
 *
 * @throws {RangeError} When the family is neither IPv4 nor IPv6, or octets are missing.
 */
export function decodeSockaddr(bytes: Uint8Array): Endpoint {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const family = bytes.length >= 2 ? view.getUint16(0, true) : -1;
  if (family === AF_INET && bytes.length >= SOCKADDR_IN_LENGTH) {
    return { address: addressOfBytes(bytes.subarray(4, 8)), port: view.getUint16(2, false) };
  }
  if (family === AF_INET6 && bytes.length >= SOCKADDR_IN6_LENGTH) {
    return { address: addressOfBytes(bytes.subarray(8, 24)), port: view.getUint16(2, false) };
  }
  throw new RangeError(
    `Cannot decode a socket address of family ${family} and ${bytes.length} octets: ` +
      `allowed are families ${AF_INET} with ${SOCKADDR_IN_LENGTH} and ${AF_INET6} with ${SOCKADDR_IN6_LENGTH}`,
  );
}
