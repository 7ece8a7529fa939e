/**
 * wire.ts - blocking TCP sockets for the benchmark's client and server
 *
 * Theory of operation
 * What is measured is the path, so both ends are as thin as JavaScript allows: recv(2) and send(2)
 * called directly, one thread per connection, which sleeps in the kernel. No event loop wakes up in
 * between. Every call has the deadline CALL_TIMEOUT_MS (SO_RCVTIMEO, SO_SNDTIMEO).
 *
 * A transfer begins with a length of LENGTH_OCTETS octets, big-endian, from the client:
 *
 *   source   the server sends so many octets and closes
 *   sink     the client sends so many octets; the server answers with the length and closes
 *   echo     no length: each octet comes back, until the client closes
 *   idle     as echo, served by an event loop, for connections by the thousand
 *   pace     as source, but PACE_OCTETS every PACE_MS: what a media server sends
 *   answer   each REQUEST_LENGTH octets of the client are answered by so many, until the client closes
 *
 * Sources: tcp(7), socket(7), recv(2), send(2).
 */

import { check, Errno, errno, libc, Memory, POLLIN, POLLOUT } from "../runtime/io/libc.ts";
import {
  acceptTcp,
  connectTcp,
  type Endpoint,
  formatHostPort,
  MSG_NOSIGNAL,
  socketError,
} from "../runtime/io/socket.ts";
import { parseHostPort } from "../runtime/io/address.ts";
import { SystemError } from "../runtime/io/libc.ts";

/** Port of each kind of server. */
export const PORTS = { source: 80, sink: 81, echo: 82, idle: 83, answer: 84, pace: 85 } as const;
/** What a paced stream has in each period. */
export const PACE_OCTETS = 200_000;
/** Period of a paced stream, milliseconds. */
export const PACE_MS = 10;
/** Octets that go over a connection of a crowd there and back. */
export const EXCHANGE_OCTETS = 1024;
/** Octets of the length that a transfer begins with. */
export const LENGTH_OCTETS = 8;
/** Octets of a request to the server of answers. */
export const REQUEST_LENGTH = 150;
/** Octets of one read or write of a transfer. */
export const PIECE_LENGTH = 256 * 1024;

/** How long a call on a socket may wait, milliseconds. */
const CALL_TIMEOUT_MS = 30_000;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const SO_SNDTIMEO = 21;
const F_SETFL = 4;
const SIOCOUTQ = 0x5411n;
const MSG_WAITALL = 0x100;

const pollEntry = new Memory(8);
const timeout = new Memory(16);
timeout.view.setBigInt64(0, BigInt(CALL_TIMEOUT_MS / 1000), true);

/**
 * Connects.
 *
 * @throws {SystemError} When it is refused or not made within CALL_TIMEOUT_MS.
 */
export function dial(address: string, port: number): number {
  const remote: Endpoint = parseHostPort(`${address}:${port}`);
  const fd = connectTcp(parseHostPort("0.0.0.0:0"), remote);
  const detail = `connect to ${formatHostPort(remote)}`;
  const isReady = waitFor(fd, POLLOUT, CALL_TIMEOUT_MS);
  const reason = isReady ? socketError(fd) : Errno.ETIMEDOUT;
  if (reason !== 0) throw new SystemError("connect", reason, detail);
  makeBlocking(fd);
  return fd;
}

/** Waits for the next connection of a listener, without a limit: a server has nothing else to do. */
export function acceptNext(listener: number): number {
  for (;;) {
    const accepted = waitFor(listener, POLLIN, -1) ? acceptTcp(listener) : null;
    if (accepted === null) continue;
    makeBlocking(accepted.fd);
    return accepted.fd;
  }
}

/**
 * Sends all of a piece of memory.
 *
 * @throws {SystemError} When the connection fails, or takes nothing for CALL_TIMEOUT_MS.
 */
export function sendAll(fd: number, address: bigint, length: number): void {
  for (let at = 0; at < length;) {
    const sent = libc.send(fd, address + BigInt(at), length - at, MSG_NOSIGNAL);
    if (sent < 0 && errno() === Errno.EINTR) continue;
    at += check(sent, "send", `send ${length - at} octets`);
  }
}

/**
 * Receives what there is.
 *
 * @returns Octets; 0 at the other side's FIN.
 * @throws {SystemError} When the connection fails, or brings nothing for CALL_TIMEOUT_MS.
 */
export function receive(fd: number, memory: Memory): number {
  return receiveWith(fd, memory, memory.bytes.length, 0);
}

/**
 * Receives `length` octets, or fewer when the other side's FIN comes first.
 *
 * @throws {SystemError} As {@linkcode receive}.
 */
export function receiveExactly(fd: number, memory: Memory, length: number): number {
  return receiveWith(fd, memory, length, MSG_WAITALL);
}

/** Sends a length. */
export function sendLength(fd: number, length: number): void {
  lengthMemory.view.setBigUint64(0, BigInt(length));
  sendAll(fd, lengthMemory.address, LENGTH_OCTETS);
}

/** Receives a length; null when the other side closed instead. */
export function receiveLength(fd: number): number | null {
  const received = receiveExactly(fd, lengthMemory, LENGTH_OCTETS);
  return received === LENGTH_OCTETS ? Number(lengthMemory.view.getBigUint64(0)) : null;
}

const lengthMemory = new Memory(LENGTH_OCTETS);

/** Octets that were given to the kernel and that the other side has not acknowledged; tcp(7), SIOCOUTQ. */
export function unacknowledged(fd: number): number {
  check(libc.ioctl(fd, SIOCOUTQ, countMemory.address), "ioctl", "ask for what is unacknowledged");
  return countMemory.view.getInt32(0, true);
}

const countMemory = new Memory(4);

function receiveWith(fd: number, memory: Memory, length: number, flags: number): number {
  for (;;) {
    const received = libc.recv(fd, memory.address, length, flags);
    if (received < 0 && errno() === Errno.EINTR) continue;
    return check(received, "recv", `receive ${length} octets`);
  }
}

function makeBlocking(fd: number): void {
  check(libc.fcntl(fd, F_SETFL, 0), "fcntl", "make a socket blocking");
  for (const name of [SO_RCVTIMEO, SO_SNDTIMEO]) {
    const result = libc.setsockopt(fd, SOL_SOCKET, name, timeout.address, 16);
    check(result, "setsockopt", "limit how long a socket may wait");
  }
}

function waitFor(fd: number, events: number, timeoutMs: number): boolean {
  pollEntry.view.setInt32(0, fd, true);
  pollEntry.view.setInt16(4, events, true);
  return libc.poll(pollEntry.address, 1, timeoutMs) > 0;
}
