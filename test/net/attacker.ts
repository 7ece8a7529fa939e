/**
 * attacker.ts - a hostile host on the hosts' replication link
 *
 * Theory of operation
 * Runs in the namespace of one host and puts frames on its end of the link, so the other host gets them
 * as it would from a third machine on the same segment that takes the sender's addresses. It sees all
 * that the host sends. For each beat it sends
 *
 *   the same beat again, an older one, one with a bit altered, and a plain-text beat that claims
 *   a primary of a later epoch
 *
 * and all the time it connects to the replication and control ports, and says there noise, a
 * plain-text hello, or what it has heard on the channel. UDP checksums are left out (RFC 768), so
 * that only the receiver's own checks can tell.
 *
 * Usage: deno run -A test/net/attacker.ts INTERFACE OWN_ADDRESS VICTIM_ADDRESS PORT SECONDS SEED
 * Prints what it has sent as JSON. Sources: packet(7).
 */
import { check, libc, Memory, POLLIN } from "../../runtime/io/libc.ts";
import { parseAddress } from "../../runtime/io/address.ts";
import { encodeBeat, encodeFrame } from "../../runtime/protocol/message.ts";
import { Random } from "./random.ts";

const AF_PACKET = 17;
const SOCK_RAW_NONBLOCK = 3 | 0o4000;
const ETH_P_ALL = 0x0300; // network byte order
const FRAME_MAX = 65600;
const ETHERNET = 14;
const IPV4 = 20;
const UDP = 8;
const PROTOCOL_OFFSET = ETHERNET + 9;
/** Beats and channel octets that are kept to be said again. */
const KEPT_MAX = 64;
const CONNECT_INTERVAL_MS = 40;
const CONNECTION_MS = 300;

/** What was sent. */
export interface AttackReport {
  /** Beats said again. */
  replayed: number;
  /** Beats with a bit altered. */
  altered: number;
  /** Beats made up. */
  forged: number;
  /** Connections made. */
  connections: number;
}

const [interfaceName, own, victim, portText, seconds, seed] = Deno.args;
const port = Number(portText);
const random = new Random(Number(seed));
const report: AttackReport = { replayed: 0, altered: 0, forged: 0, connections: 0 };
const beats: Uint8Array<ArrayBuffer>[] = [];
const heard: Uint8Array<ArrayBuffer>[] = [];
const incoming = new Memory(FRAME_MAX);
const polls = new Memory(8);

function openLink(): number {
  const index = Number(Deno.readTextFileSync(`/sys/class/net/${interfaceName}/ifindex`));
  const fd = check(libc.socket(AF_PACKET, SOCK_RAW_NONBLOCK, ETH_P_ALL), "socket", "attack");
  const address = new Memory(20);
  address.view.setUint16(0, AF_PACKET, true);
  address.view.setUint16(2, ETH_P_ALL, true);
  address.view.setInt32(4, index, true);
  check(libc.bind(fd, address.address, 20), "bind", `listen on ${interfaceName}`);
  return fd;
}

const fd = openLink();
const from = parseAddress(own).bytes;

/** Sends the frame of a beat with another payload. */
function send(frame: Uint8Array, payload: Uint8Array): void {
  const start = ETHERNET + IPV4 + UDP;
  const memory = new Memory(start + payload.length);
  memory.bytes.set(frame.subarray(0, start));
  memory.bytes.set(payload, start);
  const { view } = memory;
  view.setUint16(ETHERNET + 2, IPV4 + UDP + payload.length);
  view.setUint16(ETHERNET + IPV4 + 4, UDP + payload.length);
  view.setUint16(ETHERNET + IPV4 + 6, 0);
  view.setUint16(ETHERNET + 10, 0);
  let sum = 0;
  for (let at = 0; at < IPV4; at += 2) sum += view.getUint16(ETHERNET + at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  view.setUint16(ETHERNET + 10, ~sum & 0xffff);
  libc.send(fd, memory.address, memory.bytes.length, 0);
}

function attackWithBeat(frame: Uint8Array<ArrayBuffer>): void {
  const payload = frame.slice(ETHERNET + IPV4 + UDP);
  beats.push(payload);
  if (beats.length > KEPT_MAX) beats.shift();
  send(frame, payload);
  send(frame, beats[random.integer(beats.length)]);
  report.replayed += 2;
  const altered = payload.slice();
  altered[random.integer(altered.length)] ^= 1 << random.integer(8);
  send(frame, altered);
  report.altered++;
  for (const node of ["a", "b"]) {
    send(
      frame,
      encodeBeat({
        kind: "beat",
        node,
        incarnation: 1,
        seq: report.forged,
        echoSeq: 0,
        echoDelayUs: 0,
        services: [{
          name: "web",
          role: "primary",
          epoch: 1000,
          ready: true,
          asking: false,
          voided: 0,
          invites: true,
          counted: 0,
        }],
      }),
    );
    report.forged++;
  }
}

/** Looks at everything that passed the link since the last look. */
function look(): void {
  for (;;) {
    const length = libc.recv(fd, incoming.address, FRAME_MAX, 0);
    if (length <= 0) return;
    const frame = incoming.bytes.slice(0, length);
    const view = new DataView(frame.buffer);
    if (length < ETHERNET + IPV4 + UDP || view.getUint16(12) !== 0x0800) continue;
    const isOwn = from.every((octet, index) => frame[ETHERNET + 12 + index] === octet);
    if (!isOwn) continue;
    const ports = [view.getUint16(ETHERNET + IPV4), view.getUint16(ETHERNET + IPV4 + 2)];
    if (frame[PROTOCOL_OFFSET] === 17 && ports[1] === port) attackWithBeat(frame);
    else if (frame[PROTOCOL_OFFSET] === 6 && ports.includes(port)) {
      const payload = frame.slice(ETHERNET + IPV4 + (frame[ETHERNET + IPV4 + 12] >> 4) * 4);
      if (payload.length > 0) heard.push(payload);
      if (heard.length > KEPT_MAX) heard.shift();
    }
  }
}

function framed(envelope: Uint8Array): Uint8Array {
  return Uint8Array.of(envelope.length >> 8, envelope.length, ...envelope);
}

/** What a stranger might say on a connection. */
function speech(): Uint8Array {
  const noise = crypto.getRandomValues(new Uint8Array(1 + random.integer(1000)));
  switch (report.connections % 3) {
    case 0:
      return noise;
    case 1:
      return framed(encodeFrame({
        kind: "hello",
        node: "b",
        service: "web",
        epoch: 1000,
        mtu: 1500,
        logLimit: 1 << 20,
        capacity: 1000,
        session: 1,
        keepsLogs: false,
      }));
    default:
      return Uint8Array.of(...noise.subarray(0, 32), ...heard.flatMap((octets) => [...octets]));
  }
}

/** Connects as a stranger, says something and waits to be thrown out. */
async function intrude(at: number): Promise<void> {
  let connection: Deno.TcpConn;
  try {
    connection = await Deno.connect({ hostname: victim, port: at });
  } catch {
    return;
  }
  report.connections++;
  const thrownOut = (async () => {
    await connection.write(speech());
    const answer = new Uint8Array(4096);
    while (await connection.read(answer) !== null);
  })().catch(() => {});
  await Promise.race([thrownOut, new Promise((resolve) => setTimeout(resolve, CONNECTION_MS))]);
  connection.close();
  await thrownOut;
}

const endMs = performance.now() + Number(seconds) * 1000;
let nextConnectMs = 0;
const open: Promise<void>[] = [];
while (performance.now() < endMs) {
  polls.view.setInt32(0, fd, true);
  polls.view.setInt16(4, POLLIN, true);
  libc.poll(polls.address, 1, 2);
  look();
  if (performance.now() >= nextConnectMs) {
    nextConnectMs = performance.now() + CONNECT_INTERVAL_MS;
    open.push(intrude(port + (open.length % 2)));
  }
  // Connections need this thread's event loop.
  await new Promise((resolve) => setTimeout(resolve, 0));
}
await Promise.all(open);
console.log(JSON.stringify(report));
