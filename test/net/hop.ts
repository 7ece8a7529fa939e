/**
 * hop.ts - a bad network between two interfaces: whole Ethernet frames, forwarded with faults
 *
 *   client eth0 ---- left |hop| right ---- switch port
 *                     up ────────►
 *                     ◄──────── down
 *
 * Theory of operation
 * The hop runs in a namespace of its own with two interfaces that have no addresses. An AF_PACKET
 * socket on each reads every frame that arrives; a Lane per direction decides its fate; the socket
 * on the other side writes it. One blocking loop does all: poll both sockets and standard input,
 * read what is there, write what is due. The loop ends when standard input ends, so a hop cannot
 * outlive the program that started it, and then prints its statistics as one JSON line.
 *
 * Faults must hit segments of the size the wire would carry, so the neighbours of the hop must not
 * hand it super-segments or unfinished checksums: `splice.ts` switches their offloads off.
 * A frame longer than SLOT_LENGTH is counted as oversized and lost: it means offloads are on.
 *
 * Limits: SLOT_COUNT frames wait per direction (lane.ts); BURST frames are read from a socket before
 * the other has its turn; the kernel's receive queue is RECEIVE_BUFFER octets.
 * Sources: packet(7), poll(2), linux/if_packet.h.
 *
 * Usage: deno run -A test/net/hop.ts --left IF --right IF [--seed N] [--loss RATIO] [--dup RATIO]
 *          [--reorder RATIO] [--delay-ms MS] [--jitter-ms MS] [--direction both|up|down]
 */

import { parseArgs } from "node:util";
import {
  addressOf,
  check,
  Errno,
  errno,
  libc,
  Memory,
  POLLHUP,
  POLLIN,
  SystemError,
} from "../../runtime/io/libc.ts";
import { Lane, type LaneOptions, type LaneStatistics, SLOT_COUNT, SLOT_LENGTH } from "./lane.ts";

const AF_PACKET = 17;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const ETH_P_ALL = 0x0003;
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
const SO_SNDBUFFORCE = 32;
const SOL_PACKET = 263;
const PACKET_ADD_MEMBERSHIP = 1;
const PACKET_MR_PROMISC = 1;
const PACKET_STATISTICS = 6;
const PACKET_IGNORE_OUTGOING = 23;
const MSG_DONTWAIT = 0x40;
const MSG_TRUNC = 0x20;
const SIOCGIFINDEX = 0x8933n;
/** Octets of struct ifreq: a name of 16, then a union. */
const IFREQ_LENGTH = 40;

/** Frames read from one socket before the other has its turn. */
const BURST = 64;
/** Octets the kernel keeps of arriving frames for each socket. */
const RECEIVE_BUFFER = 16 << 20;
/** Octets the kernel keeps of leaving frames for each socket. */
const SEND_BUFFER = 4 << 20;
/** Longest sleep of the loop. */
const POLL_MS_MAX = 100;

/** What one direction of the hop did. */
export interface HopDirectionStatistics extends LaneStatistics {
  /** Frames the kernel dropped because the hop was too slow. */
  kernelDrops: number;
  /** Frames longer than a slot: somebody's offloads are on. */
  oversized: number;
  /** Frames the kernel refused to send. */
  sendFailures: number;
}

/** What the hop prints when it ends. */
export interface HopStatistics {
  /** Frames from left to right. */
  up: HopDirectionStatistics;
  /** Frames from right to left. */
  down: HopDirectionStatistics;
}

/** One side's socket. */
class Port {
  readonly fd: number;
  readonly #what: string;

  constructor(interfaceName: string) {
    this.#what = `forward frames of ${interfaceName}`;
    this.fd = check(libc.socket(AF_PACKET, SOCK_RAW_CLOEXEC, 0), "socket", this.#what);
    const request = new Memory(IFREQ_LENGTH);
    request.bytes.set(new TextEncoder().encode(interfaceName).subarray(0, 15));
    check(libc.ioctl(this.fd, SIOCGIFINDEX, request.address), "ioctl(SIOCGIFINDEX)", this.#what);
    const index = request.view.getInt32(16, true);
    this.#setOption(SOL_SOCKET, SO_RCVBUFFORCE, [RECEIVE_BUFFER]);
    this.#setOption(SOL_SOCKET, SO_SNDBUFFORCE, [SEND_BUFFER]);
    this.#setOption(SOL_PACKET, PACKET_IGNORE_OUTGOING, [1]);
    this.#setOption(SOL_PACKET, PACKET_ADD_MEMBERSHIP, [index, PACKET_MR_PROMISC, 0, 0]);
    const address = new Memory(20); // struct sockaddr_ll
    address.view.setUint16(0, AF_PACKET, true);
    address.view.setUint16(2, ETH_P_ALL);
    address.view.setInt32(4, index, true);
    check(libc.bind(this.fd, address.address, 20), "bind", this.#what);
  }

  /** Frames dropped by the kernel since the socket was opened. */
  kernelDrops(): number {
    const value = new Memory(8); // struct tpacket_stats: packets, drops
    const length = Memory.of(new Uint8Array([8, 0, 0, 0]));
    const { address } = value;
    const result = libc.getsockopt(
      this.fd,
      SOL_PACKET,
      PACKET_STATISTICS,
      address,
      length.address,
    );
    check(result, "getsockopt(PACKET_STATISTICS)", this.#what);
    return value.view.getUint32(4, true);
  }

  #setOption(level: number, name: number, words: number[]): void {
    const value = Memory.of(new Uint8Array(Int32Array.from(words).buffer));
    const result = libc.setsockopt(this.fd, level, name, value.address, value.bytes.length);
    check(result, `setsockopt(${level}, ${name})`, this.#what);
  }
}

/** One direction: a socket to read from, a lane, a socket to write to. */
class Direction {
  readonly #from: Port;
  readonly #to: Port;
  readonly #lane: Lane;
  /** Address of each slot, made once so that the loop makes none. */
  readonly #addresses: bigint[];
  #oversized = 0;
  #sendFailures = 0;

  constructor(from: Port, to: Port, options: LaneOptions) {
    this.#from = from;
    this.#to = to;
    this.#lane = new Lane(options);
    const base = addressOf(this.#lane.octets);
    this.#addresses = Array.from(
      { length: SLOT_COUNT },
      (_, slot) => base + BigInt(slot * SLOT_LENGTH),
    );
  }

  /** Reads up to a burst of frames. */
  receive(nowMs: number): void {
    for (let count = 0; count < BURST; count++) {
      const slot = this.#lane.freeSlot();
      if (slot === -1) return this.#lane.overrun();
      const flags = MSG_DONTWAIT | MSG_TRUNC;
      const length = libc.recv(this.#from.fd, this.#addresses[slot], SLOT_LENGTH, flags);
      if (length < 0) {
        const reason = errno();
        if (reason === Errno.EAGAIN || reason === Errno.EINTR) return;
        throw new SystemError("recv", reason, "read a frame");
      }
      if (length > SLOT_LENGTH) this.#oversized++;
      else this.#lane.accept(length, nowMs);
    }
  }

  /** Writes the frames that are due. */
  send(nowMs: number): void {
    for (;;) { // ends: each call takes one of at most two copies of a bounded queue
      const slot = this.#lane.takeDue(nowMs);
      if (slot === -1) return;
      const length = this.#lane.lengthOf(slot);
      if (libc.send(this.#to.fd, this.#addresses[slot], length, MSG_DONTWAIT) === length) continue;
      const reason = errno();
      if (reason !== Errno.EAGAIN && reason !== Errno.ENOBUFS) {
        throw new SystemError("send", reason, `write a frame of ${length} octets`);
      }
      this.#sendFailures++;
    }
  }

  waitMs(nowMs: number): number {
    return this.#lane.waitMs(nowMs);
  }

  statistics(): HopDirectionStatistics {
    return {
      ...this.#lane.statistics,
      kernelDrops: this.#from.kernelDrops(),
      oversized: this.#oversized,
      sendFailures: this.#sendFailures,
    };
  }
}

/** Runs both directions until standard input ends. */
function forward(up: Direction, down: Direction, ports: [Port, Port]): void {
  const polls = new Memory(24); // three struct pollfd: fd, events, revents
  [ports[0].fd, ports[1].fd, 0].forEach((fd, index) => {
    polls.view.setInt32(index * 8, fd, true);
    polls.view.setInt16(index * 8 + 4, POLLIN, true);
  });
  for (;;) { // ends when standard input does
    const waitMs = Math.min(up.waitMs(performance.now()), down.waitMs(performance.now()));
    libc.poll(polls.address, 3, Math.ceil(Math.min(POLL_MS_MAX, waitMs)));
    if ((polls.view.getInt16(22, true) & (POLLIN | POLLHUP)) !== 0) return;
    const nowMs = performance.now();
    up.receive(nowMs);
    up.send(nowMs);
    down.receive(nowMs);
    down.send(nowMs);
  }
}

/** Reads a number from the command line. */
function numberOf(text: string | undefined, name: string): number {
  const value = Number(text ?? "0");
  if (text === "" || Number.isNaN(value)) throw new RangeError(`--${name} is '${text}', no number`);
  return value;
}

function main(): void {
  const { values } = parseArgs({
    options: {
      left: { type: "string" },
      right: { type: "string" },
      seed: { type: "string" },
      loss: { type: "string" },
      dup: { type: "string" },
      reorder: { type: "string" },
      "delay-ms": { type: "string" },
      "jitter-ms": { type: "string" },
      direction: { type: "string", default: "both" },
    },
  });
  if (values.left === undefined || values.right === undefined) {
    throw new Error("Cannot start the hop: --left IF and --right IF are required");
  }
  if (!["both", "up", "down"].includes(values.direction)) {
    throw new RangeError(`--direction is '${values.direction}', allowed are both, up, down`);
  }
  const seed = numberOf(values.seed, "seed");
  const harmful: LaneOptions = {
    seed,
    lossRatio: numberOf(values.loss, "loss"),
    duplicateRatio: numberOf(values.dup, "dup"),
    reorderRatio: numberOf(values.reorder, "reorder"),
    delayMs: numberOf(values["delay-ms"], "delay-ms"),
    jitterMs: numberOf(values["jitter-ms"], "jitter-ms"),
  };
  const harmless = {
    seed,
    lossRatio: 0,
    duplicateRatio: 0,
    reorderRatio: 0,
    delayMs: 0,
    jitterMs: 0,
  };
  const left = new Port(values.left);
  const right = new Port(values.right);
  const up = new Direction(left, right, values.direction === "down" ? harmless : harmful);
  const down = new Direction(right, left, {
    ...(values.direction === "up" ? harmless : harmful),
    seed: seed + 1,
  });
  console.log("hop ready");
  forward(up, down, [left, right]);
  const statistics: HopStatistics = { up: up.statistics(), down: down.statistics() };
  console.log(JSON.stringify(statistics));
}

if (import.meta.main) main();
