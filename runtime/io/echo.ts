/**
 * echo.ts - does a host answer? ICMP echo through a raw socket
 *
 * Theory of operation
 * One request every EVERY_MS until the first reply or the deadline. The socket never blocks: between
 * two looks the caller's other work goes on. For IPv4 the kernel hands us the IP header too; for IPv6
 * it does not, and computes the checksum itself.
 *
 * Limits: FRAMES_MAX packets are read a look; needs CAP_NET_RAW.
 * Sources: RFC 792; RFC 4443 section 4.1; raw(7), ipv6(7).
 */

import { AF_INET, AF_INET6, encodeSockaddr, parseAddress } from "./address.ts";
import { check, closeAll, libc, Memory } from "./libc.ts";

const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0x800;
const SOCK_CLOEXEC = 0x80000;
const IPPROTO_ICMP = 1;
const IPPROTO_ICMPV6 = 58;
const EVERY_MS = 50;
const LOOK_MS = 5;
const FRAMES_MAX = 64;
/** Types of request and reply by IP version. */
const TYPES = { 4: { request: 8, reply: 0 }, 6: { request: 128, reply: 129 } } as const;

/**
 * Asks a host for a sign of life.
 *
 * @param text Its address.
 * @param timeoutMs How long it may take.
 * @returns Whether it answered.
 * @throws {SystemError} EPERM without CAP_NET_RAW.
 * @throws {RangeError} When `text` is no address.
 */
export async function answersEcho(text: string, timeoutMs: number): Promise<boolean> {
  const address = parseAddress(text);
  const { version } = address;
  const fd = check(
    libc.socket(
      version === 4 ? AF_INET : AF_INET6,
      SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC,
      version === 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6,
    ),
    "socket",
    `ask ${text} for an echo (needs CAP_NET_RAW)`,
  );
  const target = Memory.of(encodeSockaddr({ address, port: 0 }));
  const [id] = crypto.getRandomValues(new Uint16Array(1));
  const request = Memory.of(encodeRequest(TYPES[version].request, id));
  const heard = new Memory(256);
  const startMs = performance.now();
  let nextMs = startMs;
  try {
    check(
      libc.connect(fd, target.address, target.bytes.length),
      "connect",
      `ask ${text} for an echo`,
    );
    while (performance.now() - startMs < timeoutMs) {
      if (performance.now() >= nextMs) {
        libc.send(fd, request.address, request.bytes.length, 0);
        nextMs += EVERY_MS;
      }
      for (let i = 0; i < FRAMES_MAX; i++) {
        const length = libc.recv(fd, heard.address, heard.bytes.length, 0);
        if (length < 0) break;
        if (isReply(heard.view, { version, length, id })) return true;
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
    return false;
  } finally {
    closeAll(fd);
  }
}

function encodeRequest(type: number, id: number): Uint8Array {
  const octets = new Uint8Array(16);
  const view = new DataView(octets.buffer);
  view.setUint8(0, type);
  view.setUint16(4, id);
  let sum = 0;
  for (let i = 0; i < octets.length; i += 2) sum += view.getUint16(i);
  sum = (sum & 0xffff) + (sum >>> 16);
  view.setUint16(2, ~sum & 0xffff); // for ICMPv6 the kernel writes its own
  return octets;
}

function isReply(
  view: DataView,
  { version, length, id }: { version: 4 | 6; length: number; id: number },
): boolean {
  const at = version === 4 ? (view.getUint8(0) & 15) * 4 : 0;
  return length >= at + 8 && view.getUint8(at) === TYPES[version].reply &&
    view.getUint16(at + 4) === id;
}
