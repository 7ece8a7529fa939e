/**
 * socket.ts - nonblocking UDP, TCP and mailboxes, as plain descriptors
 *
 * Theory of operation
 * Each function makes a descriptor that never blocks and is closed on exec; the owner polls it, moves
 * octets with `libc.send` and `libc.recv` from and to its own memory, and closes it with `libc.close`.
 * Only what is done rarely has a wrapper here.
 *
 *   UDP        bindUdp(local) ............. sendTo(fd, ...), or
 *              bindUdp(local, { remote }) . only `remote` is heard; libc.send / libc.recv
 *   TCP        listenTcp(local) ........... acceptTcp(fd) until it gives null
 *              connectTcp(local, remote) .. poll for POLLOUT, then socketError(fd) must be 0
 *   mailbox    mailbox() .................. text messages between two threads of this process, whole,
 *                                           in order; the receiving side can sit in poll(2)
 *
 * Limits: a mailbox message has at most MAILBOX_LENGTH_MAX octets; a listening socket queues
 * LISTEN_BACKLOG connections.
 * Sources: socket(7), udp(7), tcp(7), ip(7), ipv6(7), unix(7).
 */

import {
  AF_INET,
  AF_INET6,
  decodeSockaddr,
  encodeSockaddr,
  type Endpoint,
  formatHostPort,
  SOCKADDR_IN6_LENGTH,
} from "./address.ts";
import { check, closeAll, Errno, errno, libc, Memory, SystemError } from "./libc.ts";

export { formatHostPort, parseHostPort } from "./address.ts";
export type { Endpoint } from "./address.ts";

/** Do not raise SIGPIPE; a flag of send(2). */
export const MSG_NOSIGNAL = 0x4000;
/** Do not wait; a flag of send(2) and recv(2). */
export const MSG_DONTWAIT = 0x40;
/** Octets (UTF-8) of the longest message a mailbox takes. */
export const MAILBOX_LENGTH_MAX = 64 << 10;

const LISTEN_BACKLOG = 64;

/** The family of Unix sockets. */
export const AF_UNIX = 1;
/** A stream of octets; a type of socket(2). */
export const SOCK_STREAM = 1;
/** Datagrams; a type of socket(2). */
export const SOCK_DGRAM = 2;
const SOCK_SEQPACKET = 5;
/** Never wait; added to a type of socket(2). */
export const SOCK_NONBLOCK = 0x800;
/** Closed when another program is executed; added to a type of socket(2). */
export const SOCK_CLOEXEC = 0x80000;

const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_ERROR = 4;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_PEERCRED = 17;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const SOL_IP = 0;
const IP_BIND_ADDRESS_NO_PORT = 24;
const SOL_IPV6 = 41;
const IPV6_V6ONLY = 26;
const SOL_TCP = 6;
const TCP_NODELAY = 1;

/** Sizes of a socket's buffers. */
export interface BufferSizes {
  /** Send buffer in octets; without it the system's default. */
  sendBufferSize?: number;
  /** Receive buffer in octets; without it the system's default. */
  receiveBufferSize?: number;
}

/** Choices for {@linkcode bindUdp}. */
export interface UdpOptions extends BufferSizes {
  /** The only endpoint to talk with; makes `libc.send` and `libc.recv` usable. */
  remote?: Endpoint;
}

/** A connection taken by {@linkcode acceptTcp}. */
export interface Accepted {
  /** Descriptor of the connection. */
  fd: number;
  /** Who connected. */
  remote: Endpoint;
}

/** The process at the other end of a Unix socket. */
export interface PeerCredentials {
  /** Process id, as seen from here. */
  pid: number;
  /** User id. */
  uid: number;
  /** Group id. */
  gid: number;
}

/** One end sends what the other takes. Close both with `libc.close`. */
export interface Mailbox {
  /** Descriptor for one side. */
  near: number;
  /** Descriptor for the other side. */
  far: number;
}

/** Octets and length field that short-lived calls point to. */
const scratch = new Memory(64);
const SCRATCH_LENGTH_OFFSET = 56;
const scratchLengthAddress = scratch.address + BigInt(SCRATCH_LENGTH_OFFSET);
const message = new Memory(MAILBOX_LENGTH_MAX);
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A socket of the endpoint's family. */
function openSocket(endpoint: Endpoint, type: number): number {
  const family = endpoint.address.version === 4 ? AF_INET : AF_INET6;
  return check(
    libc.socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
    "socket",
    `make a socket for ${formatHostPort(endpoint)}`,
  );
}

/** Puts a sockaddr into the scratch memory; gives its length. */
function placeSockaddr(endpoint: Endpoint): number {
  const bytes = encodeSockaddr(endpoint);
  scratch.bytes.set(bytes);
  return bytes.length;
}

/** Runs `prepare` on a new descriptor and closes it when that fails. */
function guarded(fd: number, prepare: () => void): number {
  try {
    prepare();
    return fd;
  } catch (error) {
    closeAll(fd);
    throw error;
  }
}

/**
 * Sets an integer option of a socket.
 *
 * @param option Level and name of the option, and its value; `detail` completes "Cannot ...".
 * @throws {SystemError} When the kernel refuses.
 */
function setOption(
  fd: number,
  option: { level: number; name: number; value: number; detail: string },
): void {
  scratch.view.setInt32(0, option.value, true);
  check(
    libc.setsockopt(fd, option.level, option.name, scratch.address, 4),
    "setsockopt",
    option.detail,
  );
}

/**
 * Sets a socket's buffer sizes, past the system's limit when we may (CAP_NET_ADMIN), else up to it.
 *
 * @throws {SystemError} When the kernel refuses both ways.
 */
export function setBufferSizes(fd: number, sizes: BufferSizes): void {
  for (
    const [value, forced, limited] of [
      [sizes.sendBufferSize, SO_SNDBUFFORCE, SO_SNDBUF],
      [sizes.receiveBufferSize, SO_RCVBUFFORCE, SO_RCVBUF],
    ]
  ) {
    if (value === undefined) continue;
    scratch.view.setInt32(0, value, true);
    if (libc.setsockopt(fd, SOL_SOCKET, forced!, scratch.address, 4) === 0) continue;
    setOption(fd, {
      level: SOL_SOCKET,
      name: limited!,
      value,
      detail: `set a socket buffer of ${value} octets`,
    });
  }
}

/** Reads an integer option of a socket. */
function getOption(fd: number, level: number, name: number): number {
  scratch.view.setUint32(SCRATCH_LENGTH_OFFSET, 4, true);
  check(
    libc.getsockopt(fd, level, name, scratch.address, scratchLengthAddress),
    "getsockopt",
    `read an option of descriptor ${fd}`,
  );
  return scratch.view.getInt32(0, true);
}

/** Binds to `endpoint`; an IPv6 socket is then for IPv6 alone. */
function bindSocket(fd: number, endpoint: Endpoint): void {
  const detail = `bind to ${formatHostPort(endpoint)}`;
  if (endpoint.address.version === 6) {
    setOption(fd, { level: SOL_IPV6, name: IPV6_V6ONLY, value: 1, detail });
  }
  const length = placeSockaddr(endpoint);
  check(libc.bind(fd, scratch.address, length), "bind", detail);
}

/**
 * A UDP socket at `local`.
 *
 * @throws {SystemError} EADDRNOTAVAIL when this host lacks the address, EADDRINUSE when it is taken.
 */
export function bindUdp(local: Endpoint, options: UdpOptions = {}): number {
  const fd = openSocket(local, SOCK_DGRAM);
  return guarded(fd, () => {
    setBufferSizes(fd, options);
    bindSocket(fd, local);
    if (options.remote === undefined) return;
    const length = placeSockaddr(options.remote);
    check(
      libc.connect(fd, scratch.address, length),
      "connect",
      `direct UDP ${formatHostPort(local)} to ${formatHostPort(options.remote)}`,
    );
  });
}

/**
 * Sends one datagram from an unconnected UDP socket.
 *
 * @param datagram Address and length of its octets.
 * @returns Whether it was taken; false when the send buffer is full.
 * @throws {SystemError} For any other failure.
 */
export function sendTo(
  fd: number,
  remote: Endpoint,
  datagram: { address: bigint; length: number },
): boolean {
  const length = placeSockaddr(remote);
  const result = libc.sendto(
    fd,
    datagram.address,
    datagram.length,
    MSG_NOSIGNAL,
    scratch.address,
    length,
  );
  if (result < 0 && (errno() === Errno.EAGAIN || errno() === Errno.ENOBUFS)) return false;
  check(result, "sendto", `send ${datagram.length} octets to ${formatHostPort(remote)}`);
  return true;
}

/**
 * A TCP socket that listens at `local`.
 *
 * @throws {SystemError} EADDRNOTAVAIL when this host lacks the address, EADDRINUSE when it is taken.
 */
export function listenTcp(local: Endpoint, options: BufferSizes = {}): number {
  const fd = openSocket(local, SOCK_STREAM);
  return guarded(fd, () => {
    const detail = `listen at ${formatHostPort(local)}`;
    setOption(fd, { level: SOL_SOCKET, name: SO_REUSEADDR, value: 1, detail });
    setBufferSizes(fd, options);
    bindSocket(fd, local);
    check(libc.listen(fd, LISTEN_BACKLOG), "listen", detail);
  });
}

/**
 * Takes the next waiting connection, with TCP_NODELAY set and the listener's buffer sizes.
 *
 * @returns Null when none waits.
 * @throws {SystemError} For lack of descriptors or memory.
 */
export function acceptTcp(fd: number): Accepted | null {
  scratch.view.setUint32(SCRATCH_LENGTH_OFFSET, SOCKADDR_IN6_LENGTH, true);
  const connection = libc.accept4(
    fd,
    scratch.address,
    scratchLengthAddress,
    SOCK_NONBLOCK | SOCK_CLOEXEC,
  );
  if (connection < 0) {
    const reason = errno();
    if (reason === Errno.EAGAIN || reason === Errno.ECONNABORTED || reason === Errno.EINTR) {
      return null;
    }
    throw new SystemError("accept4", reason, `accept a connection from descriptor ${fd}`);
  }
  const remote = decodeSockaddr(scratch.bytes.subarray(0, SOCKADDR_IN6_LENGTH));
  guarded(connection, () => setNoDelay(connection));
  return { fd: connection, remote };
}

/**
 * Starts a TCP connection from `local` (port 0: any) to `remote`, with TCP_NODELAY set. It is made, or
 * has failed, when the descriptor polls POLLOUT; {@linkcode socketError} then tells which.
 *
 * @throws {SystemError} When it fails at once: no such local address, no route.
 */
export function connectTcp(local: Endpoint, remote: Endpoint, options: BufferSizes = {}): number {
  const fd = openSocket(remote, SOCK_STREAM);
  return guarded(fd, () => {
    const detail = `connect from ${formatHostPort(local)} to ${formatHostPort(remote)}`;
    if (local.port === 0) {
      // The port is chosen at connect, so that it need only be free towards this remote.
      setOption(fd, { level: SOL_IP, name: IP_BIND_ADDRESS_NO_PORT, value: 1, detail });
    } else {
      setOption(fd, { level: SOL_SOCKET, name: SO_REUSEADDR, value: 1, detail });
    }
    setBufferSizes(fd, options);
    setNoDelay(fd);
    bindSocket(fd, local);
    const length = placeSockaddr(remote);
    const result = libc.connect(fd, scratch.address, length);
    if (result < 0 && errno() === Errno.EINPROGRESS) return;
    check(result, "connect", detail);
  });
}

/** Sends small segments at once instead of collecting them. */
function setNoDelay(fd: number): void {
  setOption(fd, {
    level: SOL_TCP,
    name: TCP_NODELAY,
    value: 1,
    detail: `set TCP_NODELAY of descriptor ${fd}`,
  });
}

/** The error that waits at a socket, which this takes away; 0 when there is none. See `Errno`. */
export function socketError(fd: number): number {
  return getOption(fd, SOL_SOCKET, SO_ERROR);
}

/** The local endpoint of a socket; tells the port that the kernel chose. */
export function localEndpoint(fd: number): Endpoint {
  scratch.view.setUint32(SCRATCH_LENGTH_OFFSET, SOCKADDR_IN6_LENGTH, true);
  check(
    libc.getsockname(fd, scratch.address, scratchLengthAddress),
    "getsockname",
    `read the local address of descriptor ${fd}`,
  );
  return decodeSockaddr(scratch.bytes.subarray(0, SOCKADDR_IN6_LENGTH));
}

/** Who is at the other end of a connected Unix socket; SO_PEERCRED of unix(7). */
export function peerCredentials(fd: number): PeerCredentials {
  scratch.view.setUint32(SCRATCH_LENGTH_OFFSET, 12, true);
  check(
    libc.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, scratch.address, scratchLengthAddress),
    "getsockopt SO_PEERCRED",
    `read who is at the other end of descriptor ${fd}`,
  );
  const { view } = scratch;
  return {
    pid: view.getInt32(0, true),
    uid: view.getUint32(4, true),
    gid: view.getUint32(8, true),
  };
}

/** Makes a pair of connected ends for {@linkcode post} and {@linkcode take}. */
export function mailbox(): Mailbox {
  check(
    libc.socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, scratch.address),
    "socketpair",
    "make a mailbox",
  );
  return { near: scratch.view.getInt32(0, true), far: scratch.view.getInt32(4, true) };
}

/** A descriptor that is readable once 8 octets were written to it, by whichever thread; eventfd(2). */
export function eventFd(): number {
  return check(
    libc.eventfd(0, SOCK_NONBLOCK | SOCK_CLOEXEC),
    "eventfd",
    "make an event descriptor",
  );
}

/**
 * Sends one message to the other end of a mailbox.
 *
 * @param text 1 to MAILBOX_LENGTH_MAX octets of UTF-8.
 * @returns Whether it was taken; false when the other side is behind and the mailbox is full.
 * @throws {SystemError} EPIPE when the other end is closed.
 * @throws {RangeError} When `text` is empty or too long.
 */
export function post(fd: number, text: string): boolean {
  const { read, written } = encoder.encodeInto(text, message.bytes);
  if (text.length === 0 || read < text.length) {
    throw new RangeError(
      `Cannot post a message of ${text.length} characters: allowed are 1 to ${MAILBOX_LENGTH_MAX} octets`,
    );
  }
  const result = libc.send(fd, message.address, written, MSG_NOSIGNAL);
  if (result < 0 && (errno() === Errno.EAGAIN || errno() === Errno.ENOBUFS)) return false;
  check(result, "send", "post to a mailbox");
  return true;
}

/**
 * Takes the oldest message from the other end of a mailbox.
 *
 * @returns Null when none waits.
 * @throws {SystemError} EPIPE when none waits and the other end is closed.
 */
export function take(fd: number): string | null {
  const length = libc.recv(fd, message.address, MAILBOX_LENGTH_MAX, 0);
  if (length < 0 && errno() === Errno.EAGAIN) return null;
  check(length, "recv", "take from a mailbox");
  if (length === 0) throw new SystemError("recv", Errno.EPIPE, "take from a mailbox");
  return decoder.decode(message.bytes.subarray(0, length));
}
