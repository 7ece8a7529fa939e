/**
 * neighbour_responder.ts - tell those who ask that an address is here, for as long as we live
 *
 * Theory of operation
 * An AF_PACKET socket hears the ARP requests, or Neighbor Solicitations, for one address on one
 * interface; a filter in the kernel keeps all else from it. The thread that forwards polls `fd` and calls
 * `answer()`, so when that thread dies or hangs the host falls silent for the address at once: unlike the
 * kernel's own proxy ARP and proxy NDP, which know nothing of our state. The socket belongs to the
 * network namespace that the calling thread was in when it was made.
 *
 *   question -> kernel: filter -> fd polls POLLIN -> answer(true) -> reply to the one who asked
 *                                                    answer(false) -> dropped
 *
 * For IPv6 a second socket joins the solicited-node group, so that the card and switches that snoop on
 * multicast deliver the questions; leaving is automatic.
 *
 * Limits: ANSWERS_MAX questions per call, the rest at the next; the kernel queues as many as fit the
 * socket's default buffer and drops more. VLAN tags in the frame (not on a VLAN interface) are not read.
 * Sources: packet(7), ipv6(7).
 */

import { AF_INET6, type IpAddress } from "./address.ts";
import { check, closeAll, Errno, errno, libc, Memory, SystemError } from "./libc.ts";
import {
  ARP_OPERATION_OFFSET,
  ARP_REQUEST,
  ARP_TARGET_OFFSET,
  encodeAnswer,
  ETHERTYPE_ARP,
  ETHERTYPE_IPV6,
  ETHERTYPE_OFFSET,
  ICMPV6_OFFSET,
  IPV6_NEXT_HEADER_OFFSET,
  NEIGHBOR_SOLICITATION,
  PROTOCOL_ICMPV6,
  SOLICITATION_TARGET_OFFSET,
  solicitedNodeGroup,
} from "./neighbour_frame.ts";
import type { Link } from "./netlink_message.ts";
import { addressAt, type Condition, openPacketSocket } from "./packet_socket.ts";

const ANSWERS_MAX = 16;
/** Octets of a question that are looked at. */
const QUESTION_LENGTH_MAX = 512;

const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0x80000;
const SOL_IPV6 = 41;
const IPV6_JOIN_GROUP = 20;

/** Room for what short-lived calls point to. */
const scratch = new Memory(32);
const question = new Memory(QUESTION_LENGTH_MAX);
const reply = new Memory(128);

/** Answers for one address on one interface. */
export class NeighbourResponder {
  /** Descriptor to poll for POLLIN. */
  readonly fd: number;
  readonly #groupFd: number;
  readonly #address: IpAddress;
  readonly #link: Link;

  /**
   * Opens the sockets; needs CAP_NET_RAW.
   *
   * @param link The interface, which must be of the Ethernet kind.
   * @throws {SystemError} EPERM without the capability.
   */
  constructor(address: IpAddress, link: Link) {
    this.#address = address;
    this.#link = link;
    const detail = `hear questions for ${address.text}`;
    this.fd = openPacketSocket(link, conditionsFor(address), detail);
    let groupFd = -1;
    try {
      if (address.version === 6) {
        groupFd = check(libc.socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket", detail);
        joinGroup(groupFd, solicitedNodeGroup(address), link);
      }
    } catch (error) {
      closeAll(this.fd, groupFd);
      throw error;
    }
    this.#groupFd = groupFd;
  }

  /**
   * Reads the questions that wait, and answers them if the address is ours.
   *
   * @param isOurs Whether to answer; else they are dropped.
   * @returns How many were answered.
   * @throws {SystemError} When the interface is gone; not when it is down or its queue is full.
   */
  answer(isOurs: boolean): number {
    let answered = 0;
    for (let i = 0; i < ANSWERS_MAX; i++) {
      const length = libc.recv(this.fd, question.address, QUESTION_LENGTH_MAX, 0);
      if (length < 0) {
        const reason = errno();
        if (reason === Errno.EAGAIN || reason === Errno.ENETDOWN) break;
        throw new SystemError("recv", reason, `hear questions for ${this.#address.text}`);
      }
      if (!isOurs) continue;
      const frame = encodeAnswer(
        this.#address,
        this.#link.hardwareAddress,
        question.bytes.subarray(0, length),
      );
      if (frame === null) continue;
      reply.bytes.set(frame);
      // A reply that does not get out is asked for again.
      if (libc.send(this.fd, reply.address, frame.length, 0) >= 0) answered++;
    }
    return answered;
  }

  /** Closes the sockets. */
  close(): void {
    closeAll(this.fd, this.#groupFd);
  }
}

/** What tells a question for `address` from all else. */
function conditionsFor(address: IpAddress): Condition[] {
  if (address.version === 4) {
    return [
      { size: 2, offset: ETHERTYPE_OFFSET, value: ETHERTYPE_ARP },
      { size: 2, offset: ARP_OPERATION_OFFSET, value: ARP_REQUEST },
      ...addressAt(ARP_TARGET_OFFSET, address),
    ];
  }
  return [
    { size: 2, offset: ETHERTYPE_OFFSET, value: ETHERTYPE_IPV6 },
    { size: 1, offset: IPV6_NEXT_HEADER_OFFSET, value: PROTOCOL_ICMPV6 },
    { size: 1, offset: ICMPV6_OFFSET, value: NEIGHBOR_SOLICITATION },
    ...addressAt(SOLICITATION_TARGET_OFFSET, address),
  ];
}

/** Joins an IPv6 multicast group on an interface; struct ipv6_mreq. */
function joinGroup(fd: number, group: IpAddress, link: Link): void {
  scratch.bytes.set(group.bytes);
  scratch.view.setUint32(16, link.index, true);
  check(
    libc.setsockopt(fd, SOL_IPV6, IPV6_JOIN_GROUP, scratch.address, 20),
    "setsockopt IPV6_JOIN_GROUP",
    `join ${group.text}`,
  );
}
