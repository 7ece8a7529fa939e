/**
 * neighbour_frame.ts - Ethernet frames that tell neighbours which card an address is at
 *
 * Theory of operation
 * For IPv4 these are ARP packets, for IPv6 Neighbor Advertisements. An announcement goes to everybody
 * unasked: an ARP request in which sender and target are the address itself, or an advertisement to all
 * nodes whose override flag makes those who know the address replace what they know. An answer goes to
 * the one who asked. Nothing here does I/O.
 *
 *   ARP   destination | source | 0806 | htype 1, ptype 0800, hlen 6, plen 4, oper 1 or 2 |
 *         sender MAC | sender IP | target MAC | target IP                                      42 octets
 *   NA    destination | source | 86dd | IPv6 header, hop limit 255 | ICMPv6 136, 0, checksum, flags,
 *         target address | option 2: source MAC                                                86 octets
 *   NS    as NA, with ICMPv6 135 and no flags; the option may be missing            78 octets or more
 *
 * Sources: RFC 826; RFC 5227 section 2.3; RFC 4861 sections 4.3, 4.4, 4.6.1, 7.1.1, 7.2.4 and 7.2.6;
 * RFC 4443 section 2.3; RFC 8200 section 8.1 (pseudo-header); RFC 2464 section 7 (multicast MAC).
 */

import { addressOfBytes, type IpAddress } from "./address.ts";

/** Octets of a hardware address. */
export const MAC_LENGTH = 6;
/** EtherType of ARP. */
export const ETHERTYPE_ARP = 0x0806;
/** EtherType of IPv6. */
export const ETHERTYPE_IPV6 = 0x86dd;
/** Operation of an ARP request, at ARP_OPERATION_OFFSET. */
export const ARP_REQUEST = 1;
/** Type of a Neighbor Solicitation, at ICMPV6_OFFSET. */
export const NEIGHBOR_SOLICITATION = 135;
/** Type of a Neighbor Advertisement, at ICMPV6_OFFSET. */
export const NEIGHBOR_ADVERTISEMENT = 136;
/** Next header of ICMPv6, at IPV6_NEXT_HEADER_OFFSET. */
export const PROTOCOL_ICMPV6 = 58;

/** Where in a frame its EtherType is. */
export const ETHERTYPE_OFFSET = 12;
/** Where in an ARP frame the operation is. */
export const ARP_OPERATION_OFFSET = 20;
/** Where in an ARP frame the address is of the one who sends it. */
export const ARP_SENDER_OFFSET = 28;
/** Where in an ARP frame the address is that it asks for. */
export const ARP_TARGET_OFFSET = 38;
/** Where in an IPv6 frame the type of its payload is. */
export const IPV6_NEXT_HEADER_OFFSET = 20;
/** Where in an IPv6 frame without extension headers ICMPv6 starts. */
export const ICMPV6_OFFSET = 54;
/** Where in a solicitation the address is that it asks for, in an advertisement its own. */
export const SOLICITATION_TARGET_OFFSET = 62;

const ETHERNET_LENGTH = 14;
const ARP_LENGTH = 28;
const ARP_SENDER_MAC_OFFSET = 22;
const ARP_TARGET_MAC_OFFSET = 32;
const ARP_REPLY = 2;
const IPV6_LENGTH = 40;
const IPV6_PAYLOAD_LENGTH_OFFSET = 18;
const IPV6_HOP_LIMIT_OFFSET = 21;
const IPV6_SOURCE_OFFSET = 22;
const IPV6_DESTINATION_OFFSET = 38;
const SOLICITATION_LENGTH = 24;
const ADVERTISEMENT_LENGTH = 32;
const HOP_LIMIT = 255;
const FLAG_SOLICITED = 0x40000000;
const FLAG_OVERRIDE = 0x20000000;
const OPTION_TARGET_LINK_LAYER_ADDRESS = 2;
const BROADCAST = Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
const ALL_NODES_MAC = Uint8Array.of(0x33, 0x33, 0, 0, 0, 1);
const ALL_NODES = Uint8Array.of(0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);

/**
 * The frame that announces `address` at `mac`.
 *
 * @throws {RangeError} When `mac` is not six octets.
 */
export function encodeAnnouncement(address: IpAddress, mac: Uint8Array): Uint8Array<ArrayBuffer> {
  if (mac.length !== MAC_LENGTH) {
    throw new RangeError(
      `Cannot announce ${address.text} at a hardware address of ${mac.length} octets: ` +
        `allowed is ${MAC_LENGTH} (Ethernet)`,
    );
  }
  const sender = { mac, address: address.bytes };
  return address.version === 4
    ? encodeArp(ARP_REQUEST, sender, {
      frameMac: BROADCAST,
      mac: new Uint8Array(MAC_LENGTH),
      address: address.bytes,
    })
    : encodeAdvertisement(FLAG_OVERRIDE, sender, { mac: ALL_NODES_MAC, address: ALL_NODES });
}

/**
 * The frame that answers `question`: `address` is at `mac`.
 *
 * @param question A frame as received, whatever its octets.
 * @returns Null unless `question` is a valid request for this address from somebody else.
 */
export function encodeAnswer(
  address: IpAddress,
  mac: Uint8Array,
  question: Uint8Array,
): Uint8Array<ArrayBuffer> | null {
  const sender = { mac, address: address.bytes };
  return address.version === 4 ? answerArp(sender, question) : answerSolicitation(sender, question);
}

/**
 * The frame that asks everybody who has `address`, on behalf of nobody: who has it is not made to
 * believe that we do (RFC 5227 section 2.1.1, RFC 4862 section 5.4.2).
 */
export function encodeProbe(address: IpAddress, mac: Uint8Array): Uint8Array<ArrayBuffer> {
  if (address.version === 4) {
    return encodeArp(ARP_REQUEST, { mac, address: new Uint8Array(4) }, {
      frameMac: BROADCAST,
      mac: new Uint8Array(MAC_LENGTH),
      address: address.bytes,
    });
  }
  const group = solicitedNodeGroup(address).bytes;
  const groupMac = Uint8Array.of(0x33, 0x33, ...group.subarray(12));
  const { frame, view } = startIcmpv6({ mac, address: new Uint8Array(16) }, {
    mac: groupMac,
    address: group,
  }, SOLICITATION_LENGTH);
  frame[ICMPV6_OFFSET] = NEIGHBOR_SOLICITATION;
  frame.set(address.bytes, SOLICITATION_TARGET_OFFSET);
  view.setUint16(ICMPV6_OFFSET + 2, icmpv6Checksum(frame.subarray(ETHERNET_LENGTH)));
  return frame;
}

/**
 * Who says in `frame` that `address` is at its card.
 *
 * @param frame A frame as received, whatever its octets.
 * @returns The hardware address, "02:00:00:00:00:01"; null when the frame says no such thing.
 */
export function claimantOf(address: IpAddress, frame: Uint8Array): string | null {
  if (frame.length < ETHERNET_LENGTH + ARP_LENGTH) return null;
  const view = new DataView(frame.buffer, frame.byteOffset);
  const etherType = view.getUint16(ETHERTYPE_OFFSET);
  let macOffset = MAC_LENGTH; // the frame's own source
  if (address.version === 4) {
    const sender = frame.subarray(ARP_SENDER_OFFSET, ARP_SENDER_OFFSET + 4);
    if (etherType !== ETHERTYPE_ARP || !isEqual(sender, address.bytes)) return null;
    macOffset = ARP_SENDER_MAC_OFFSET;
  } else {
    if (frame.length < ICMPV6_OFFSET + SOLICITATION_LENGTH) return null;
    const target = frame.subarray(SOLICITATION_TARGET_OFFSET, SOLICITATION_TARGET_OFFSET + 16);
    if (etherType !== ETHERTYPE_IPV6 || frame[ICMPV6_OFFSET] !== NEIGHBOR_ADVERTISEMENT) {
      return null;
    }
    // Nobody beyond the link can have sent it (RFC 4861 section 7.1.2).
    if (frame[IPV6_HOP_LIMIT_OFFSET] !== HOP_LIMIT || !isEqual(target, address.bytes)) return null;
  }
  const mac = frame.subarray(macOffset, macOffset + MAC_LENGTH);
  return [...mac].map((octet) => octet.toString(16).padStart(2, "0")).join(":");
}

/** An address and the card it is at. */
interface Station {
  mac: Uint8Array;
  address: Uint8Array;
}

/** The answer to an ARP request. */
function answerArp(own: Station, question: Uint8Array): Uint8Array<ArrayBuffer> | null {
  if (question.length < ETHERNET_LENGTH + ARP_LENGTH) return null;
  const view = new DataView(question.buffer, question.byteOffset);
  const sender = question.subarray(ARP_SENDER_OFFSET, ARP_SENDER_OFFSET + 4);
  const target = question.subarray(ARP_TARGET_OFFSET, ARP_TARGET_OFFSET + 4);
  if (view.getUint16(ETHERTYPE_OFFSET) !== ETHERTYPE_ARP) return null;
  if (view.getUint16(ARP_OPERATION_OFFSET) !== ARP_REQUEST) return null;
  if (!isEqual(target, own.address)) return null;
  if (isEqual(sender, own.address)) return null; // an announcement, not a question
  const mac = question.slice(ARP_SENDER_MAC_OFFSET, ARP_SENDER_MAC_OFFSET + MAC_LENGTH);
  return encodeArp(ARP_REPLY, own, { frameMac: mac, mac, address: sender });
}

/** The answer to a Neighbor Solicitation, after the checks of RFC 4861 section 7.1.1. */
function answerSolicitation(own: Station, question: Uint8Array): Uint8Array<ArrayBuffer> | null {
  if (question.length < ICMPV6_OFFSET + SOLICITATION_LENGTH) return null;
  const view = new DataView(question.buffer, question.byteOffset);
  const payloadLength = view.getUint16(IPV6_PAYLOAD_LENGTH_OFFSET);
  const end = ICMPV6_OFFSET + payloadLength;
  if (view.getUint16(ETHERTYPE_OFFSET) !== ETHERTYPE_IPV6) return null;
  if (question[IPV6_NEXT_HEADER_OFFSET] !== PROTOCOL_ICMPV6) return null;
  if (question[IPV6_HOP_LIMIT_OFFSET] !== HOP_LIMIT) return null;
  if (view.getUint16(ICMPV6_OFFSET) !== NEIGHBOR_SOLICITATION << 8) return null; // and code 0
  if (payloadLength < SOLICITATION_LENGTH || end > question.length) return null;
  if (icmpv6Checksum(question.subarray(ETHERNET_LENGTH, end)) !== 0) return null;
  const target = question.subarray(SOLICITATION_TARGET_OFFSET, SOLICITATION_TARGET_OFFSET + 16);
  if (!isEqual(target, own.address)) return null;
  const source = question.subarray(IPV6_SOURCE_OFFSET, IPV6_SOURCE_OFFSET + 16);
  if (source.every((octet) => octet === 0)) { // one who wants the address for itself
    return encodeAdvertisement(FLAG_OVERRIDE, own, { mac: ALL_NODES_MAC, address: ALL_NODES });
  }
  return encodeAdvertisement(FLAG_SOLICITED | FLAG_OVERRIDE, own, {
    mac: question.subarray(MAC_LENGTH, 2 * MAC_LENGTH),
    address: source,
  });
}

/** Whether two lists of octets of one length are the same. */
function isEqual(left: Uint8Array, right: Uint8Array): boolean {
  return left.every((octet, index) => octet === right[index]);
}

/** The group that those who ask for an IPv6 address send their question to; RFC 4291 section 2.7.1. */
export function solicitedNodeGroup(address: IpAddress): IpAddress {
  const group = Uint8Array.of(0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0);
  group.set(address.bytes.subarray(13), 13);
  return addressOfBytes(group);
}

/** An ARP frame. */
function encodeArp(
  operation: number,
  sender: Station,
  target: Station & { frameMac: Uint8Array },
): Uint8Array<ArrayBuffer> {
  const { frame, view } = startFrame(target.frameMac, sender.mac, {
    etherType: ETHERTYPE_ARP,
    length: ARP_LENGTH,
  });
  view.setUint16(14, 1); // hardware type: Ethernet
  view.setUint16(16, 0x0800); // protocol type: IPv4
  frame[18] = MAC_LENGTH;
  frame[19] = sender.address.length;
  view.setUint16(ARP_OPERATION_OFFSET, operation);
  frame.set(sender.mac, ARP_SENDER_MAC_OFFSET);
  frame.set(sender.address, ARP_SENDER_OFFSET);
  frame.set(target.mac, ARP_TARGET_MAC_OFFSET);
  frame.set(target.address, ARP_TARGET_OFFSET);
  return frame;
}

/** A Neighbor Advertisement of the sender's address. */
function encodeAdvertisement(
  flags: number,
  sender: Station,
  destination: Station,
): Uint8Array<ArrayBuffer> {
  const { frame, view } = startIcmpv6(sender, destination, ADVERTISEMENT_LENGTH);
  frame[ICMPV6_OFFSET] = NEIGHBOR_ADVERTISEMENT;
  view.setUint32(ICMPV6_OFFSET + 4, flags);
  frame.set(sender.address, ICMPV6_OFFSET + 8);
  frame[ICMPV6_OFFSET + 24] = OPTION_TARGET_LINK_LAYER_ADDRESS;
  frame[ICMPV6_OFFSET + 25] = 1; // length in units of eight octets
  frame.set(sender.mac, ICMPV6_OFFSET + 26);
  view.setUint16(ICMPV6_OFFSET + 2, icmpv6Checksum(frame.subarray(ETHERNET_LENGTH)));
  return frame;
}

/** A frame with an IPv6 header and `length` octets of ICMPv6, still empty. */
function startIcmpv6(
  sender: Station,
  destination: Station,
  length: number,
): { frame: Uint8Array<ArrayBuffer>; view: DataView<ArrayBuffer> } {
  const { frame, view } = startFrame(destination.mac, sender.mac, {
    etherType: ETHERTYPE_IPV6,
    length: IPV6_LENGTH + length,
  });
  frame[ETHERNET_LENGTH] = 6 << 4; // version
  view.setUint16(IPV6_PAYLOAD_LENGTH_OFFSET, length);
  frame[IPV6_NEXT_HEADER_OFFSET] = PROTOCOL_ICMPV6;
  frame[IPV6_HOP_LIMIT_OFFSET] = HOP_LIMIT;
  frame.set(sender.address, IPV6_SOURCE_OFFSET);
  frame.set(destination.address, IPV6_DESTINATION_OFFSET);
  return { frame, view };
}

/** An empty frame behind its Ethernet header. */
function startFrame(
  destination: Uint8Array,
  source: Uint8Array,
  payload: { etherType: number; length: number },
): { frame: Uint8Array<ArrayBuffer>; view: DataView<ArrayBuffer> } {
  const frame = new Uint8Array(ETHERNET_LENGTH + payload.length);
  const view = new DataView(frame.buffer);
  frame.set(destination, 0);
  frame.set(source, MAC_LENGTH);
  view.setUint16(ETHERTYPE_OFFSET, payload.etherType);
  return { frame, view };
}

/**
 * The checksum of the ICMPv6 message behind the IPv6 header `packet` starts with; 0 when the message's
 * own checksum field is filled in and right.
 */
export function icmpv6Checksum(packet: Uint8Array): number {
  const message = packet.subarray(IPV6_LENGTH);
  const covered = new Uint8Array(32 + 8 + message.length + (message.length % 2));
  covered.set(packet.subarray(8, 40)); // source and destination
  covered.set(message, 40);
  const view = new DataView(covered.buffer);
  view.setUint32(32, message.length);
  covered[39] = PROTOCOL_ICMPV6;
  let sum = 0;
  for (let i = 0; i < covered.length; i += 2) sum += view.getUint16(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
