/**
 * announce.ts - tell a network that an address is here now
 *
 * Theory of operation
 * An `Announcer` holds the finished frame and an AF_PACKET socket aimed at one interface, in the network
 * namespace of the calling thread; announcing is one sendto(2). The socket's protocol is 0, so it
 * hears nothing and queues nothing. Neighbours that hear the frame send their next packet here; one
 * that misses it goes on talking to the old place, so announce again a few times while traffic may still
 * arrive there.
 *
 * Sources: packet(7); neighbour_frame.ts names the RFCs.
 */

import type { IpAddress } from "./address.ts";
import { encodeAnnouncement, ETHERTYPE_ARP, ETHERTYPE_IPV6 } from "./neighbour_frame.ts";
import { check, closeAll, libc, Memory } from "./libc.ts";
import type { Link } from "./netlink_message.ts";
import { MSG_DONTWAIT } from "./socket.ts";

const AF_PACKET = 17;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0x80000;
const SOCKADDR_LL_LENGTH = 20;

/** Announces one address on one interface. */
export class Announcer {
  readonly #fd: number;
  readonly #frame: Memory;
  /** `struct sockaddr_ll`: where to. */
  readonly #target = new Memory(SOCKADDR_LL_LENGTH);
  readonly #detail: string;

  /**
   * Opens the socket; needs CAP_NET_RAW.
   *
   * @param link The interface, which must be of the Ethernet kind.
   * @throws {SystemError} EPERM without the capability.
   * @throws {RangeError} When the interface has no Ethernet address.
   */
  constructor(address: IpAddress, link: Link) {
    this.#frame = Memory.of(encodeAnnouncement(address, link.hardwareAddress));
    this.#detail = `announce ${address.text}`;
    const { view } = this.#target;
    view.setUint16(0, AF_PACKET, true);
    view.setUint16(2, address.version === 4 ? ETHERTYPE_ARP : ETHERTYPE_IPV6, false);
    view.setInt32(4, link.index, true);
    this.#fd = check(
      libc.socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0),
      "socket",
      `${this.#detail} (needs CAP_NET_RAW)`,
    );
  }

  /**
   * Sends the announcement once.
   *
   * @throws {SystemError} ENETDOWN when the interface is down, ENXIO when it is gone.
   */
  announce(): void {
    const { address, bytes } = this.#frame;
    check(
      libc.sendto(
        this.#fd,
        address,
        bytes.length,
        MSG_DONTWAIT,
        this.#target.address,
        SOCKADDR_LL_LENGTH,
      ),
      "sendto",
      this.#detail,
    );
  }

  /** Closes the socket. */
  close(): void {
    closeAll(this.#fd);
  }
}
