/**
 * netlink_message.ts - requests to the kernel's routing tables as octets, and its answers
 *
 * Theory of operation
 * A request is a header, a fixed part that depends on its type, and attributes, each padded to four
 * octets. Integers are the host's (little-endian), addresses the network's. Every encoder asks for an
 * acknowledgement, leaves the sequence number 0 (the sender fills it in at SEQUENCE_OFFSET), and makes
 * "add" idempotent: what exists is replaced. Nothing here does I/O.
 *
 *   nlmsghdr    length u32 | type u16 | flags u16 | sequence u32 | port u32                16 octets
 *   rtattr      length u16 (with these four octets) | type u16 | value | padding
 *   nlmsgerr    errno i32 (0 or negative) | nlmsghdr of the request | attributes
 *
 * Sources: netlink(7), rtnetlink(7), include/uapi/linux/{netlink,rtnetlink,neighbour,fib_rules}.h.
 */

import { AF_INET, AF_INET6, type IpAddress } from "./address.ts";

/** Octets of a message header. */
export const HEADER_LENGTH = 16;
/** Where in a message its sequence number is. */
export const SEQUENCE_OFFSET = 8;
/** Type of an acknowledgement or refusal. */
export const NLMSG_ERROR = 2;
/** Type of the answer that describes a network interface. */
export const RTM_NEWLINK = 16;

const RTM_GETLINK = 18;
const RTM_NEWADDR = 20;
const RTM_NEWROUTE = 24;
const RTM_DELROUTE = 25;
const RTM_NEWNEIGH = 28;
const RTM_DELNEIGH = 29;
const RTM_NEWRULE = 32;
const RTM_DELRULE = 33;

const NLM_F_REQUEST = 0x1;
const NLM_F_ACK = 0x4;
const NLM_F_REPLACE = 0x100;
const NLM_F_EXCL = 0x200;
const NLM_F_CREATE = 0x400;
const NLM_F_CAPPED = 0x100;

const NLMSGERR_ATTR_MSG = 1;
/** Bits of an attribute's type that are flags. */
const ATTRIBUTE_FLAGS = 0xc000;

const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_PRIORITY = 6;
const RTN_UNICAST = 1;
const RTN_BLACKHOLE = 6;
const RTPROT_STATIC = 4;
const RT_SCOPE_UNIVERSE = 0;
const RT_SCOPE_LINK = 253;
/** The routing table "main". */
export const TABLE_MAIN = 254;

const NDA_DST = 1;
const NUD_PERMANENT = 0x80;
const NTF_PROXY = 0x8;

const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_F_NODAD = 0x2;

const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_TXQLEN = 13;
const IFF_UP = 0x1;

const FRA_SRC = 2;
const FRA_PRIORITY = 6;
const FR_ACT_TO_TBL = 1;

/** Whether a request brings something or takes it away. */
export type Change = "add" | "delete";

/** A route. */
export interface Route {
  /** Where to; null for everything. Always one address, never a network. */
  destination: IpAddress | null;
  /** 4 or 6, which a route to everything has to say. */
  version: 4 | 6;
  /** Index of the interface that leads there; null drops the packets silently (blackhole). */
  interfaceIndex: number | null;
  /** Of several routes to one destination the one with the lowest metric is taken. */
  metric: number;
  /** Number of the routing table, 1 to 255; see {@linkcode TABLE_MAIN}. */
  table: number;
}

/** What is known of a network interface. */
export interface Link {
  /** Number of the interface in its namespace. */
  index: number;
  /** Hardware address in octets; empty when it has none (TUN). */
  hardwareAddress: Uint8Array<ArrayBuffer>;
  /** Largest IP packet in octets. */
  mtu: number;
}

/** The kernel's verdict on a request. */
export interface Verdict {
  /** 0 when it was done, else a positive error number. */
  errno: number;
  /** What the kernel says about it; empty when it says nothing. */
  text: string;
}

/** A message under construction. */
class Builder {
  #octets: number[] = [];

  /** Adds `size` octets of a little-endian integer. */
  integer(value: number, size: 1 | 2 | 4): this {
    for (let i = 0; i < size; i++) this.#octets.push((value >>> (8 * i)) & 0xff);
    return this;
  }

  /** Adds an attribute that holds octets, or a 32-bit integer. */
  attribute(type: number, value: Uint8Array | number): this {
    const length = typeof value === "number" ? 4 : value.length;
    this.integer(4 + length, 2).integer(type, 2);
    if (typeof value === "number") return this.integer(value, 4);
    this.#octets.push(...value);
    while (this.#octets.length % 4 !== 0) this.#octets.push(0);
    return this;
  }

  /** The whole message with its header. */
  message(type: number, flags: number): Uint8Array<ArrayBuffer> {
    const message = new Uint8Array(HEADER_LENGTH + this.#octets.length);
    const view = new DataView(message.buffer);
    view.setUint32(0, message.length, true);
    view.setUint16(4, type, true);
    view.setUint16(6, NLM_F_REQUEST | NLM_F_ACK | flags, true);
    message.set(this.#octets, HEADER_LENGTH);
    return message;
  }
}

/** Flags that make an "add" replace what exists. */
function flagsOf(change: Change): number {
  return change === "add" ? NLM_F_CREATE | NLM_F_REPLACE : 0;
}

/** The kernel's number for an IP version. */
function familyOf(version: 4 | 6): number {
  return version === 4 ? AF_INET : AF_INET6;
}

/** A request to add or delete `route`; struct rtmsg. */
export function encodeRoute(change: Change, route: Route): Uint8Array<ArrayBuffer> {
  const { destination, interfaceIndex } = route;
  const isBlackhole = interfaceIndex === null;
  const builder = new Builder()
    .integer(familyOf(route.version), 1)
    .integer(destination === null ? 0 : destination.bytes.length * 8, 1)
    .integer(0, 2) // source length, type of service
    .integer(route.table, 1)
    .integer(RTPROT_STATIC, 1)
    .integer(isBlackhole || route.version === 6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK, 1)
    .integer(isBlackhole ? RTN_BLACKHOLE : RTN_UNICAST, 1)
    .integer(0, 4); // flags
  if (destination !== null) builder.attribute(RTA_DST, destination.bytes);
  if (!isBlackhole) builder.attribute(RTA_OIF, interfaceIndex);
  builder.attribute(RTA_PRIORITY, route.metric);
  return builder.message(change === "add" ? RTM_NEWROUTE : RTM_DELROUTE, flagsOf(change));
}

/** A request to answer, or not to answer, for `address` on an interface (proxy ARP, proxy NDP). */
export function encodeProxyNeighbour(
  change: Change,
  proxy: { address: IpAddress; interfaceIndex: number },
): Uint8Array<ArrayBuffer> {
  return new Builder()
    .integer(familyOf(proxy.address.version), 1)
    .integer(0, 1).integer(0, 2) // padding
    .integer(proxy.interfaceIndex, 4)
    .integer(NUD_PERMANENT, 2)
    .integer(NTF_PROXY, 1)
    .integer(0, 1) // type
    .attribute(NDA_DST, proxy.address.bytes)
    .message(change === "add" ? RTM_NEWNEIGH : RTM_DELNEIGH, flagsOf(change));
}

/** A request to give an interface one address, usable at once (no duplicate address detection). */
export function encodeAddress(
  address: IpAddress,
  interfaceIndex: number,
): Uint8Array<ArrayBuffer> {
  const builder = new Builder()
    .integer(familyOf(address.version), 1)
    .integer(address.bytes.length * 8, 1) // prefix length
    .integer(address.version === 6 ? IFA_F_NODAD : 0, 1)
    .integer(RT_SCOPE_UNIVERSE, 1)
    .integer(interfaceIndex, 4)
    .attribute(IFA_LOCAL, address.bytes)
    .attribute(IFA_ADDRESS, address.bytes);
  return builder.message(RTM_NEWADDR, flagsOf("add"));
}

/** A request to switch an interface on, setting the sizes that are given. */
export function encodeLinkUp(
  interfaceIndex: number,
  sizes: { mtu?: number; transmitQueueLength?: number } = {},
): Uint8Array<ArrayBuffer> {
  const builder = new Builder()
    .integer(0, 4) // family, padding, type
    .integer(interfaceIndex, 4)
    .integer(IFF_UP, 4) // flags
    .integer(IFF_UP, 4); // which of them change
  if (sizes.mtu !== undefined) builder.attribute(IFLA_MTU, sizes.mtu);
  if (sizes.transmitQueueLength !== undefined) {
    builder.attribute(IFLA_TXQLEN, sizes.transmitQueueLength);
  }
  return builder.message(RTM_NEWLINK, 0);
}

/** A request to describe the interface called `name`; {@linkcode decodeLink} reads the answer. */
export function encodeLinkQuery(name: string): Uint8Array<ArrayBuffer> {
  return new Builder()
    .integer(0, 4).integer(0, 4).integer(0, 4).integer(0, 4)
    .attribute(IFLA_IFNAME, new TextEncoder().encode(name + "\0"))
    .message(RTM_GETLINK, 0);
}

/**
 * A request to add or delete the rule "from `source` look up `table`" of a priority; a deletion without
 * source takes any rule of that priority. Adding a rule that exists is refused with EEXIST.
 */
export function encodeRule(
  change: Change,
  rule: { version: 4 | 6; source: IpAddress | null; table: number; priority: number },
): Uint8Array<ArrayBuffer> {
  const builder = new Builder()
    .integer(familyOf(rule.version), 1)
    .integer(0, 1) // destination length
    .integer(rule.source === null ? 0 : rule.source.bytes.length * 8, 1)
    .integer(0, 1) // type of service
    .integer(rule.table, 1)
    .integer(0, 2) // reserved
    .integer(FR_ACT_TO_TBL, 1)
    .integer(0, 4); // flags
  if (rule.source !== null) builder.attribute(FRA_SRC, rule.source.bytes);
  builder.attribute(FRA_PRIORITY, rule.priority);
  const isAdd = change === "add";
  return builder.message(
    isAdd ? RTM_NEWRULE : RTM_DELRULE,
    isAdd ? NLM_F_CREATE | NLM_F_EXCL : 0,
  );
}

/** The attributes from `offset` on, by type; cut or overlong ones end the list. */
function attributesOf(message: Uint8Array, offset: number): Map<number, Uint8Array> {
  const attributes = new Map<number, Uint8Array>();
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  while (offset + 4 <= message.length) {
    const length = view.getUint16(offset, true);
    if (length < 4 || offset + length > message.length) break;
    const type = view.getUint16(offset + 2, true) & ~ATTRIBUTE_FLAGS;
    attributes.set(type, message.subarray(offset + 4, offset + length));
    offset += (length + 3) & ~3;
  }
  return attributes;
}

/** A little-endian 32-bit number. */
function numberOf(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true);
}

/**
 * Reads an NLMSG_ERROR message, which also is the form of an acknowledgement.
 *
 * @throws {RangeError} When octets are missing.
 */
export function decodeVerdict(message: Uint8Array): Verdict {
  if (message.length < HEADER_LENGTH + 4 + HEADER_LENGTH) {
    throw new RangeError(`Cannot read a netlink verdict of ${message.length} octets`);
  }
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const errno = 0 - view.getInt32(HEADER_LENGTH, true);
  // A refusal quotes the whole request unless the flags say that it was capped after the header.
  const isCapped = errno === 0 || (view.getUint16(6, true) & NLM_F_CAPPED) !== 0;
  const quoted = isCapped ? HEADER_LENGTH : view.getUint32(HEADER_LENGTH + 4, true);
  const text = attributesOf(message, HEADER_LENGTH + 4 + quoted).get(NLMSGERR_ATTR_MSG);
  return { errno, text: new TextDecoder().decode(text).replace(/\0$/, "") };
}

/**
 * Reads the description of an interface, an RTM_NEWLINK message.
 *
 * @throws {RangeError} When octets are missing.
 */
export function decodeLink(message: Uint8Array): Link {
  const attributesOffset = HEADER_LENGTH + 16; // struct ifinfomsg
  const attributes = attributesOf(message, attributesOffset);
  const mtu = attributes.get(IFLA_MTU);
  if (message.length < attributesOffset || mtu === undefined || mtu.length < 4) {
    throw new RangeError(`Cannot read a netlink description of a link in ${message.length} octets`);
  }
  return {
    index: numberOf(message.subarray(HEADER_LENGTH + 4)),
    hardwareAddress: Uint8Array.from(attributes.get(IFLA_ADDRESS) ?? []),
    mtu: numberOf(mtu),
  };
}
