/**
 * netlink.ts - ask the kernel to change addresses, routes and neighbours, and wait for its word
 *
 * Theory of operation
 * A `Netlink` is one socket to the routing part of the kernel, in the network namespace that the
 * calling thread was in when it was made. A request is prepared once, as octets in memory that does not
 * move; performing it costs one send(2) and one recv(2), because the kernel does the work inside send
 * and its acknowledgement already waits when send returns. Should it not, we wait ANSWER_TIMEOUT_MS.
 *
 * Limits: one request at a time; at most ANSWERS_MAX messages are read for one request, each of at most
 * ANSWER_LENGTH_MAX octets.
 * Sources: netlink(7), rtnetlink(7), Documentation/userspace-api/netlink/intro.rst (extended ACK).
 */

import { check, closeAll, Errno, errno, libc, Memory, POLLIN, SystemError } from "./libc.ts";
import {
  decodeLink,
  decodeVerdict,
  encodeLinkQuery,
  HEADER_LENGTH,
  type Link,
  NLMSG_ERROR,
  RTM_NEWLINK,
  SEQUENCE_OFFSET,
  type Verdict,
} from "./netlink_message.ts";
import { MSG_DONTWAIT } from "./socket.ts";

/** How long the kernel may take to answer. */
const ANSWER_TIMEOUT_MS = 1000;
const ANSWERS_MAX = 16;
const ANSWER_LENGTH_MAX = 64 << 10;

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0x80000;
const NETLINK_ROUTE = 0;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const MSG_TRUNC = 0x20;

/** A request that is ready to be sent, any number of times. */
export interface NetlinkRequest {
  /** The message. */
  readonly memory: Memory;
  /** What it does, completing "Cannot ...". */
  readonly detail: string;
}

const answer = new Memory(ANSWER_LENGTH_MAX);
/** `struct pollfd`, or the value of an option. */
const scratch = new Memory(8);

/** A connection to the kernel's routing tables. */
export class Netlink {
  readonly #fd: number;
  #sequence = 0;

  /**
   * Opens the socket in the namespace of the calling thread, whose changes need CAP_NET_ADMIN.
   *
   * @throws {SystemError} For lack of descriptors.
   */
  constructor() {
    this.#fd = check(
      libc.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE),
      "socket",
      "open a netlink socket",
    );
    // Explanations are welcome, not needed: a kernel that lacks them still answers.
    scratch.view.setInt32(0, 1, true);
    libc.setsockopt(this.#fd, SOL_NETLINK, NETLINK_CAP_ACK, scratch.address, 4);
    libc.setsockopt(this.#fd, SOL_NETLINK, NETLINK_EXT_ACK, scratch.address, 4);
  }

  /**
   * Makes a request of an encoded message.
   *
   * @param detail What it does, completing "Cannot ..."
   */
  prepare(message: Uint8Array, detail: string): NetlinkRequest {
    return { memory: Memory.of(message), detail };
  }

  /**
   * Sends a request and waits for the kernel's word.
   *
   * @param tolerated Error numbers that are as good as success, `Errno.EEXIST` for an addition.
   * @returns Whether it was done; false when it was refused with a tolerated error.
   * @throws {SystemError} When it was refused, or not answered in time (ETIMEDOUT).
   */
  perform(request: NetlinkRequest, tolerated: readonly number[] = []): boolean {
    const { verdict } = this.#exchange(request);
    if (verdict.errno === 0) return true;
    if (tolerated.includes(verdict.errno)) return false;
    const text = verdict.text === "" ? "" : ` (${verdict.text})`;
    throw new SystemError("netlink", verdict.errno, request.detail + text);
  }

  /** Prepares and performs in one step. */
  change(message: Uint8Array, detail: string, tolerated: readonly number[] = []): boolean {
    return this.perform(this.prepare(message, detail), tolerated);
  }

  /**
   * Describes the network interface called `name`.
   *
   * @throws {SystemError} ENODEV when there is none.
   */
  link(name: string): Link {
    const request = this.prepare(encodeLinkQuery(name), `find network interface ${name}`);
    const { verdict, link } = this.#exchange(request);
    if (verdict.errno !== 0 || link === null) {
      throw new SystemError("netlink", verdict.errno || Errno.ENODEV, request.detail);
    }
    return link;
  }

  /** Closes the socket. */
  close(): void {
    closeAll(this.#fd);
  }

  /** Sends a request and reads until its verdict has come, noting a link that is described before. */
  #exchange({ memory, detail }: NetlinkRequest): { verdict: Verdict; link: Link | null } {
    this.#sequence = (this.#sequence + 1) >>> 0;
    memory.view.setUint32(SEQUENCE_OFFSET, this.#sequence, true);
    check(libc.send(this.#fd, memory.address, memory.bytes.length, 0), "send", detail);
    let link: Link | null = null;
    for (let i = 0; i < ANSWERS_MAX; i++) {
      const message = this.#receive(detail);
      const sequence = message.byteLength < HEADER_LENGTH
        ? -1
        : answer.view.getUint32(SEQUENCE_OFFSET, true);
      if (sequence !== this.#sequence) continue; // late answer to a request that was given up
      const type = answer.view.getUint16(4, true);
      if (type === NLMSG_ERROR) return { verdict: decodeVerdict(message), link };
      if (type === RTM_NEWLINK) link = decodeLink(message);
    }
    throw new SystemError(
      "recv",
      Errno.ETIMEDOUT,
      `${detail}: no verdict in ${ANSWERS_MAX} answers`,
    );
  }

  /** The next datagram; the kernel sends one message in each, as we never ask for a list. */
  #receive(detail: string): Uint8Array {
    const receive = () =>
      libc.recv(this.#fd, answer.address, ANSWER_LENGTH_MAX, MSG_DONTWAIT | MSG_TRUNC);
    let length = receive();
    if (length < 0 && errno() === Errno.EAGAIN) {
      scratch.view.setInt32(0, this.#fd, true);
      scratch.view.setInt32(4, POLLIN, true);
      if (libc.poll(scratch.address, 1, ANSWER_TIMEOUT_MS) === 0) {
        throw new SystemError("poll", Errno.ETIMEDOUT, detail);
      }
      length = receive();
    }
    check(length, "recv", detail);
    if (length > ANSWER_LENGTH_MAX) throw new SystemError("recv", Errno.EMSGSIZE, detail);
    return answer.bytes.subarray(0, length);
  }
}
