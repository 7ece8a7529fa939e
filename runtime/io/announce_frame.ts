/**
 * announce_frame.ts - Ethernet frames that tell neighbours which card an address is at
 *
 * Theory of operation
 * For IPv4 an ARP announcement: a broadcast request in which sender and target are the address itself.
 * For IPv6 an unsolicited Neighbor Advertisement to all nodes with the override flag, which makes
 * those who know the address replace what they know. Nothing here does I/O.
 *
 *   ARP   destination ff:ff:ff:ff:ff:ff | source | 0806 | htype 1, ptype 0800, hlen 6, plen 4, oper 1 |
 *         sender MAC | sender IP | target MAC 0 | target IP                                    42 octets
 *   NA    destination 33:33:00:00:00:01 | source | 86dd | IPv6 header, hop limit 255 | ICMPv6 136, 0,
 *         checksum, flags, target address | option 2: source MAC                                86 octets
 *
 * Sources: RFC 826; RFC 5227 section 2.3; RFC 4861 sections 4.4, 4.6.1 and 7.2.6; RFC 4443 section
 * 2.3; RFC 8200 section 8.1 (pseudo-header); RFC 2464 section 7 (multicast MAC).
 */

import type { IpAddress } from "./address.ts";

/** Octets of a hardware address. */
export const MAC_LENGTH = 6;
/** EtherType of ARP. */
export const ETHERTYPE_ARP = 0x0806;
/** EtherType of IPv6. */
export const ETHERTYPE_IPV6 = 0x86dd;

const ETHERNET_LENGTH = 14;
const ARP_LENGTH = 28;
const IPV6_LENGTH = 40;
const ADVERTISEMENT_LENGTH = 32;
const PROTOCOL_ICMPV6 = 58;
const HOP_LIMIT = 255;
const NEIGHBOR_ADVERTISEMENT = 136;
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
  return address.version === 4
    ? encodeArpAnnouncement(address.bytes, mac)
    : encodeNeighborAdvertisement(address.bytes, mac);
}

/** An ARP announcement. */
function encodeArpAnnouncement(address: Uint8Array, mac: Uint8Array): Uint8Array<ArrayBuffer> {
  const { frame, view } = startFrame(BROADCAST, mac, {
    etherType: ETHERTYPE_ARP,
    length: ARP_LENGTH,
  });
  view.setUint16(14, 1); // hardware type: Ethernet
  view.setUint16(16, 0x0800); // protocol type: IPv4
  frame[18] = MAC_LENGTH;
  frame[19] = address.length;
  view.setUint16(20, 1); // operation: request
  frame.set(mac, 22);
  frame.set(address, 28);
  frame.set(address, 38);
  return frame;
}

/** An unsolicited Neighbor Advertisement. */
function encodeNeighborAdvertisement(
  address: Uint8Array,
  mac: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const { frame, view } = startFrame(ALL_NODES_MAC, mac, {
    etherType: ETHERTYPE_IPV6,
    length: IPV6_LENGTH + ADVERTISEMENT_LENGTH,
  });
  frame[14] = 6 << 4; // version
  view.setUint16(18, ADVERTISEMENT_LENGTH);
  frame[20] = PROTOCOL_ICMPV6;
  frame[21] = HOP_LIMIT;
  frame.set(address, 22);
  frame.set(ALL_NODES, 38);
  const icmp = ETHERNET_LENGTH + IPV6_LENGTH;
  frame[icmp] = NEIGHBOR_ADVERTISEMENT;
  view.setUint32(icmp + 4, FLAG_OVERRIDE);
  frame.set(address, icmp + 8);
  frame[icmp + 24] = OPTION_TARGET_LINK_LAYER_ADDRESS;
  frame[icmp + 25] = 1; // length in units of eight octets
  frame.set(mac, icmp + 26);
  view.setUint16(icmp + 2, icmpv6Checksum(frame.subarray(ETHERNET_LENGTH)));
  return frame;
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
  view.setUint16(12, payload.etherType);
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
