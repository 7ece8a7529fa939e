/**
 * md5.ts - a TCP client and server that sign their segments with TCP MD5 (RFC 2385)
 *
 * Theory of operation
 * A signed segment's digest covers its sequence numbers, so nobody on the way can translate it: the
 * standard example of a connection that cannot be protected. Deno's sockets cannot set a key, so
 * both ends are made from system calls. The server accepts one connection after another and returns
 * what it reads; the client sends lines, each when told so, and prints what comes back.
 *
 *   serve     prints "md5 listening", then serves until it is killed
 *   connect   prints "md5 connected"; for each line of standard input sends it and prints
 *             "md5 answer LINE", or "md5 lost" when the connection broke; ends with the input
 *
 * Every call waits at most CALL_TIMEOUT_SECONDS. IPv4 only: the option's meaning does not depend on
 * the family. Sources: RFC 2385, tcp(7), linux/tcp.h (struct tcp_md5sig).
 *
 * Usage: deno run -A test/net/md5.ts serve ADDRESS PORT CLIENT_ADDRESS
 *        deno run -A test/net/md5.ts connect ADDRESS PORT
 */

import { AF_INET, encodeSockaddr, parseAddress } from "../../runtime/io/address.ts";
import { check, libc, Memory } from "../../runtime/io/libc.ts";

const SOCK_STREAM_CLOEXEC = 1 | 0o2000000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_RCVTIMEO = 20;
const SO_SNDTIMEO = 21;
const IPPROTO_TCP = 6;
const TCP_MD5SIG = 14;
const MSG_NOSIGNAL = 0x4000;
const CALL_TIMEOUT_SECONDS = 10;
const KEY = new TextEncoder().encode("holdfast test key");
/** struct tcp_md5sig: sockaddr_storage 128, flags 1, prefix 1, length 2, ifindex 4, key 80. */
const MD5SIG_LENGTH = 216;

function socketAddress(address: string, port: number): Memory {
  return Memory.of(encodeSockaddr({ address: parseAddress(address), port }));
}

function setOption(fd: number, level: number, name: number, value: Memory): void {
  const result = libc.setsockopt(fd, level, name, value.address, value.bytes.length);
  check(result, `setsockopt(${level}, ${name})`, "set up a signed connection");
}

/** A TCP socket with a key for segments to and from `peer`. */
function signedSocket(peer: string): number {
  const fd = check(libc.socket(AF_INET, SOCK_STREAM_CLOEXEC, 0), "socket", "sign with MD5");
  const key = new Memory(MD5SIG_LENGTH);
  key.bytes.set(socketAddress(peer, 0).bytes);
  key.view.setUint16(130, KEY.length, true);
  key.bytes.set(KEY, 136);
  setOption(fd, IPPROTO_TCP, TCP_MD5SIG, key);
  const timeout = new Memory(16); // struct timeval
  timeout.view.setUint32(0, CALL_TIMEOUT_SECONDS, true);
  setOption(fd, SOL_SOCKET, SO_SNDTIMEO, timeout);
  return fd;
}

function setReceiveTimeout(fd: number): void {
  const timeout = new Memory(16);
  timeout.view.setUint32(0, CALL_TIMEOUT_SECONDS, true);
  setOption(fd, SOL_SOCKET, SO_RCVTIMEO, timeout);
}

function serve(address: string, port: number, peer: string): void {
  const listener = signedSocket(peer);
  setOption(listener, SOL_SOCKET, SO_REUSEADDR, Memory.of(new Uint8Array([1, 0, 0, 0])));
  const local = socketAddress(address, port);
  check(libc.bind(listener, local.address, 16), "bind", `listen on ${address}:${port}`);
  check(libc.listen(listener, 8), "listen", `listen on ${address}:${port}`);
  console.log("md5 listening");
  const buffer = new Memory(4096);
  for (;;) { // a server: it ends by being killed
    const fd = check(libc.accept4(listener, 0n, 0n, 0), "accept4", "serve");
    for (;;) { // ends with the connection
      const length = libc.recv(fd, buffer.address, 4096, 0);
      if (length <= 0 || libc.send(fd, buffer.address, length, MSG_NOSIGNAL) < 0) break;
    }
    libc.close(fd);
  }
}

async function connect(address: string, port: number): Promise<void> {
  const fd = signedSocket(address);
  setReceiveTimeout(fd);
  const remote = socketAddress(address, port);
  check(libc.connect(fd, remote.address, 16), "connect", `connect to ${address}:${port}`);
  console.log("md5 connected");
  const buffer = new Memory(4096);
  const decoder = new TextDecoder();
  for await (const octets of Deno.stdin.readable) {
    const line = Memory.of(octets);
    const sent = libc.send(fd, line.address, octets.length, MSG_NOSIGNAL);
    const length = sent < 0 ? -1 : libc.recv(fd, buffer.address, 4096, 0);
    if (length <= 0) console.log("md5 lost");
    else console.log(`md5 answer ${decoder.decode(buffer.bytes.subarray(0, length)).trim()}`);
  }
  libc.close(fd);
}

if (import.meta.main) {
  const [role, address, port, peer] = Deno.args;
  if (role === "serve") serve(address, Number(port), peer);
  else if (role === "connect") await connect(address, Number(port));
  else throw new Error(`Cannot start: the role is '${role}', allowed are serve and connect`);
}
