/**
 * address_watch.ts - hear who else says that an address is theirs, and ask whether anybody does
 *
 * Theory of operation
 * A packet socket hears ARP frames whose sender is the address, or Neighbor Advertisements for it:
 * announcements, and answers to `probe()`. Two uses: a primary that hears one has a rival, which an
 * operator must know; and one who is to claim the address without knowing whether its last owner is
 * gone asks first.
 *
 * Limits: FRAMES_MAX frames a call, the rest at the next; answers to others go past us, as switches
 * deliver them to those alone.
 * Sources: RFC 5227 (address conflict detection); RFC 4862 section 5.4.
 */

import type { IpAddress } from "./address.ts";
import { closeAll, libc, Memory } from "./libc.ts";
import {
  ARP_SENDER_OFFSET,
  claimantOf,
  encodeProbe,
  ETHERTYPE_ARP,
  ETHERTYPE_IPV6,
  ETHERTYPE_OFFSET,
  ICMPV6_OFFSET,
  IPV6_NEXT_HEADER_OFFSET,
  NEIGHBOR_ADVERTISEMENT,
  PROTOCOL_ICMPV6,
  SOLICITATION_TARGET_OFFSET,
} from "./neighbour_frame.ts";
import type { Link } from "./netlink_message.ts";
import { addressAt, CAPTURE_LENGTH, type Condition, openPacketSocket } from "./packet_socket.ts";

const FRAMES_MAX = 16;

const heard = new Memory(CAPTURE_LENGTH);

/** Watches one address on one interface. */
export class AddressWatch {
  /** Descriptor to poll for POLLIN. */
  readonly fd: number;
  readonly #address: IpAddress;
  readonly #mac: Uint8Array;
  readonly #own: string;
  readonly #probe: Memory;

  /**
   * Opens the socket; needs CAP_NET_RAW.
   *
   * @param link The interface, which must be of the Ethernet kind.
   * @throws {SystemError} EPERM without the capability.
   */
  constructor(address: IpAddress, link: Link) {
    this.#address = address;
    this.#mac = link.hardwareAddress;
    this.#own = [...link.hardwareAddress].map((o) => o.toString(16).padStart(2, "0")).join(":");
    this.#probe = Memory.of(encodeProbe(address, link.hardwareAddress));
    this.fd = openPacketSocket(link, conditionsFor(address), `hear who has ${address.text}`);
  }

  /** Asks once for another address, of one who always answers; what comes is counted, not heard. */
  ask(address: IpAddress): void {
    const frame = Memory.of(encodeProbe(address, this.#mac));
    libc.send(this.fd, frame.address, frame.bytes.length, 0);
  }

  /** Asks everybody on the network once who has the address; the answers come to `take()`. */
  probe(): void {
    // What does not get out is asked again; an interface that is down is no place to claim at.
    libc.send(this.fd, this.#probe.address, this.#probe.bytes.length, 0);
  }

  /**
   * Takes what was heard.
   *
   * @returns The hardware address of somebody else who says that the address is theirs; null for
   * nobody.
   */
  take(): string | null {
    let rival: string | null = null;
    for (let i = 0; i < FRAMES_MAX; i++) {
      const length = libc.recv(this.fd, heard.address, CAPTURE_LENGTH, 0);
      if (length < 0) break;
      const mac = claimantOf(this.#address, heard.bytes.subarray(0, length));
      if (mac !== null && mac !== this.#own) rival = mac;
    }
    return rival;
  }

  /** Closes the socket. */
  close(): void {
    closeAll(this.fd);
  }
}

/** What tells a word of whoever has `address` from all else. */
function conditionsFor(address: IpAddress): Condition[] {
  if (address.version === 4) {
    return [
      { size: 2, offset: ETHERTYPE_OFFSET, value: ETHERTYPE_ARP },
      ...addressAt(ARP_SENDER_OFFSET, address),
    ];
  }
  return [
    { size: 2, offset: ETHERTYPE_OFFSET, value: ETHERTYPE_IPV6 },
    { size: 1, offset: IPV6_NEXT_HEADER_OFFSET, value: PROTOCOL_ICMPV6 },
    { size: 1, offset: ICMPV6_OFFSET, value: NEIGHBOR_ADVERTISEMENT },
    ...addressAt(SOLICITATION_TARGET_OFFSET, address),
  ];
}
