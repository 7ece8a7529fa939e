/**
 * packet_socket.ts - a socket that hears certain Ethernet frames of one interface
 *
 * Theory of operation
 * An AF_PACKET socket with a filter in the kernel: a frame passes when it holds the value of every
 * condition at its place. What this host itself sends is not heard. The socket belongs to the network
 * namespace that the calling thread was in when it was made, and never blocks.
 *
 * Sources: packet(7), socket(7) (SO_ATTACH_FILTER), Documentation/networking/filter.rst.
 */

import type { IpAddress } from "./address.ts";
import { check, closeAll, libc, Memory } from "./libc.ts";
import { ETHERTYPE_ARP, ETHERTYPE_IPV6 } from "./neighbour_frame.ts";
import type { Link } from "./netlink_message.ts";

/** Octets of a frame that are handed over. */
export const CAPTURE_LENGTH = 512;

const AF_PACKET = 17;
const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0x800;
const SOCK_CLOEXEC = 0x80000;
const SOCKADDR_LL_LENGTH = 20;
const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;
const SOL_PACKET = 263;
const PACKET_IGNORE_OUTGOING = 23;

/** Classic BPF: load an octet, half word, word; jump if equal; return. */
const LOADS = { 1: 0x30, 2: 0x28, 4: 0x20 } as const;
const BPF_JEQ = 0x15;
const BPF_RET = 0x06;
const BPF_INSTRUCTION_LENGTH = 8;

/** What a frame must hold to pass: `value` in `size` octets at `offset`. */
export interface Condition {
  /** Octets that are compared. */
  size: 1 | 2 | 4;
  /** Where they are, from the start of the frame. */
  offset: number;
  /** What they must be, in network byte order. */
  value: number;
}

/** Room for what short-lived calls point to. */
const scratch = new Memory(32);

/** The conditions that a frame holds `address` at `offset`. */
export function addressAt(offset: number, address: IpAddress): Condition[] {
  const { bytes } = address;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return Array.from({ length: bytes.length / 4 }, (_, index): Condition => ({
    size: 4,
    offset: offset + 4 * index,
    value: view.getUint32(4 * index),
  }));
}

/**
 * Opens a socket that hears frames of an interface which meet all conditions; ARP frames or IPv6
 * frames, as the first condition says.
 *
 * @param detail What it is for, completing "Cannot ...".
 * @returns Its descriptor.
 * @throws {SystemError} EPERM without CAP_NET_RAW.
 */
export function openPacketSocket(
  link: Link,
  conditions: readonly Condition[],
  detail: string,
): number {
  const fd = check(
    libc.socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
    "socket",
    `${detail} (needs CAP_NET_RAW)`,
  );
  try {
    attachFilter(fd, conditions, detail);
    scratch.view.setInt32(0, 1, true);
    // Without it (Linux before 4.20) our own announcements are heard; readers tell them by their MAC.
    libc.setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, scratch.address, 4);
    const isArp = conditions[0].value === ETHERTYPE_ARP;
    scratch.bytes.fill(0);
    scratch.view.setUint16(0, AF_PACKET, true);
    scratch.view.setUint16(2, isArp ? ETHERTYPE_ARP : ETHERTYPE_IPV6, false);
    scratch.view.setInt32(4, link.index, true);
    check(libc.bind(fd, scratch.address, SOCKADDR_LL_LENGTH), "bind", detail);
    return fd;
  } catch (error) {
    closeAll(fd);
    throw error;
  }
}

/** Keeps from a socket every frame that fails one of `conditions`; struct sock_fprog. */
function attachFilter(fd: number, conditions: readonly Condition[], detail: string): void {
  const count = 2 * conditions.length + 2;
  const program = new Memory(count * BPF_INSTRUCTION_LENGTH);
  const write = (index: number, code: number, jumps: [number, number], value: number) => {
    const at = index * BPF_INSTRUCTION_LENGTH;
    program.view.setUint16(at, code, true);
    program.bytes.set(jumps, at + 2);
    program.view.setUint32(at + 4, value, true);
  };
  conditions.forEach(({ size, offset, value }, index) => {
    const refuse = count - 1;
    write(2 * index, LOADS[size], [0, 0], offset);
    write(2 * index + 1, BPF_JEQ, [0, refuse - (2 * index + 2)], value);
  });
  write(count - 2, BPF_RET, [0, 0], CAPTURE_LENGTH);
  write(count - 1, BPF_RET, [0, 0], 0);
  scratch.bytes.fill(0);
  scratch.view.setUint16(0, count, true);
  scratch.view.setBigUint64(8, program.address, true);
  const result = libc.setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, scratch.address, 16);
  check(result, "setsockopt SO_ATTACH_FILTER", detail);
  program.bytes.fill(0); // the kernel has its copy; until here the program had to stay reachable
}
