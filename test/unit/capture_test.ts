/**
 * capture_test.ts - the capture reader, on captures built by hand
 *
 * Each test writes a small pcap file segment by segment and checks one judgement. The builder below
 * is the reader's opposite: it knows only the layouts of RFC 791, RFC 8200, RFC 9293 and RFC 826.
 */

import assert from "node:assert/strict";
import { addressClaims, type ConnectionTrace, traceTcp } from "../net/capture.ts";

const CLIENT = [192, 0, 2, 1];
const SERVER = [192, 0, 2, 100];
const FIN = 0x01;
const SYN = 0x02;
const RST = 0x04;
const ACK = 0x10;

/** One segment of a hand-made capture. */
interface Made {
  atMs?: number;
  from?: "client" | "server";
  clientPort?: number;
  flags?: number;
  seq?: number;
  ack?: number;
  window?: number;
  payload?: number;
  options?: number[];
  version?: 4 | 6;
}

function put32(value: number): number[] {
  return [value >>> 24 & 255, value >>> 16 & 255, value >>> 8 & 255, value & 255];
}

function timestamps(value: number): number[] {
  return [1, 1, 8, 10, ...put32(value), ...put32(0)];
}

/** An Ethernet frame for `made`; the payload is cut off, as a snap length does. */
function frameOf(made: Made): { octets: number[]; wireLength: number } {
  const { from = "server", clientPort = 40000, flags = ACK, seq = 0, ack = 0 } = made;
  const { window = 1000, payload = 0, options = [], version = 4 } = made;
  const padded = [...options, ...Array((4 - options.length % 4) % 4).fill(0)];
  const ports = from === "server" ? [80, clientPort] : [clientPort, 80];
  const tcp = [
    ...ports.flatMap((port) => [port >> 8, port & 255]),
    ...put32(seq),
    ...put32(ack),
    (5 + padded.length / 4) << 4,
    flags,
    window >> 8,
    window & 255,
    ...[0, 0, 0, 0],
    ...padded,
  ];
  const length = tcp.length + payload;
  const ends = from === "server" ? [SERVER, CLIENT] : [CLIENT, SERVER];
  const mapped = (end: number[]) => [0x20, 1, 0xd, 0xb8, ...Array(8).fill(0), 0, 0, 0, end[3]];
  const total = 20 + length > 0xffff ? 0 : 20 + length; // BIG TCP writes 0
  const network = version === 4
    ? [0x45, 0, total >> 8, total & 255, 0, 0, 0x40, 0, 64, 6, 0, 0, ...ends.flat()]
    : [0x60, 0, 0, 0, (length + 8) >> 8, (length + 8) & 255, 60, 64, ...ends.flatMap(mapped)];
  const extension = version === 4 ? [] : [6, 0, 1, 4, 0, 0, 0, 0]; // destination options: PadN
  const type = version === 4 ? [8, 0] : [0x86, 0xdd];
  const octets = [...Array(12).fill(2), ...type, ...network, ...extension, ...tcp];
  return { octets, wireLength: octets.length + payload };
}

/** Writes frames into a pcap file and hands its path to `body`. */
function withCapture(
  frames: { atMs: number; octets: number[]; wireLength: number }[],
  body: (path: string) => void,
  littleEndian = true,
): void {
  const size = frames.reduce((sum, frame) => sum + 16 + frame.octets.length, 24);
  const view = new DataView(new ArrayBuffer(size));
  view.setUint32(0, 0xa1b2c3d4, littleEndian);
  view.setUint32(20, 1, littleEndian);
  let at = 24;
  for (const { atMs, octets, wireLength } of frames) {
    view.setUint32(at, Math.floor(atMs / 1000), littleEndian);
    view.setUint32(at + 4, (atMs % 1000) * 1000, littleEndian);
    view.setUint32(at + 8, octets.length, littleEndian);
    view.setUint32(at + 12, wireLength, littleEndian);
    new Uint8Array(view.buffer).set(octets, at + 16);
    at += 16 + octets.length;
  }
  const path = Deno.makeTempFileSync({ suffix: ".pcap" });
  try {
    Deno.writeFileSync(path, new Uint8Array(view.buffer));
    body(path);
  } finally {
    Deno.removeSync(path);
  }
}

/** Traces hand-made segments and returns the connections. */
function trace(segments: Made[]): ConnectionTrace[] {
  const frames = segments.map((made, index) => ({ atMs: made.atMs ?? index, ...frameOf(made) }));
  const address = segments[0].version === 6 ? "2001:db8::64" : "192.0.2.100";
  let connections: ConnectionTrace[] = [];
  withCapture(frames, (path) => connections = traceTcp(path, address).connections);
  return connections;
}

/** A handshake whose numbers are close to the wrap. */
function handshake(options: number[] = [], version: 4 | 6 = 4): Made[] {
  return [
    { from: "client", flags: SYN, seq: 0xffff_fff0, options, version },
    { flags: SYN | ACK, seq: 0xffff_ff00, ack: 0xffff_fff1, options, version },
    { from: "client", seq: 0xffff_fff1, ack: 0xffff_ff01, version },
  ];
}

Deno.test("traceTcp() counts SYN, FIN and RST by side", () => {
  const [one, two] = trace([
    ...handshake(),
    { flags: FIN | ACK, seq: 0xffff_ff01, ack: 0xffff_fff1 },
    { from: "client", flags: FIN | ACK },
    { from: "client", flags: SYN, clientPort: 40001, seq: 7 },
    { from: "client", flags: SYN, clientPort: 40001, seq: 8 },
    { flags: RST | ACK, clientPort: 40001 },
    { from: "client", flags: RST, clientPort: 40001 },
  ]);
  assert.equal(one.name, "192.0.2.1:40000 > 192.0.2.100:80");
  assert.deepEqual([one.clientSyns, one.clientIsns, one.serverSynAcks], [1, 1, 1]);
  assert.deepEqual([one.clientFins, one.serverFins], [1, 1]);
  assert.deepEqual([one.clientRsts, one.serverRsts], [0, 0]);
  assert.deepEqual([two.clientSyns, two.clientIsns, two.clientSynsAfterSynAck], [2, 2, 0]);
  assert.deepEqual([two.clientRsts, two.serverRsts], [1, 1]);
});

Deno.test("traceTcp() tells a SYN after the SYN-ACK from one before", () => {
  const [one] = trace([...handshake(), { from: "client", flags: SYN, seq: 0xffff_fff0 }]);
  assert.deepEqual([one.clientSyns, one.clientIsns, one.clientSynsAfterSynAck], [2, 1, 1]);
});

Deno.test("traceTcp() tells a RST after the end from one that ends a connection", () => {
  const ending: Made[] = [
    ...handshake(),
    { flags: FIN | ACK, seq: 0xffff_ff01, ack: 0xffff_fff1 },
    { from: "client", flags: FIN | ACK, seq: 0xffff_fff1, ack: 0xffff_ff02 },
  ];
  const [late] = trace([...ending, { flags: RST, seq: 0xffff_ff02 }]);
  assert.deepEqual([late.serverRsts, late.serverRstsAfterEnd, late.serverRstMs], [1, 1, 5]);
  const [early] = trace([...ending.slice(0, 4), { flags: RST, seq: 0xffff_ff02 }]);
  assert.deepEqual([early.serverRsts, early.serverRstsAfterEnd], [1, 0]);
});

Deno.test("traceTcp() tells a RST that answers a second ACK of a repeated FIN", () => {
  const fin: Made = { from: "client", flags: FIN | ACK, seq: 0xffff_fff1, ack: 0xffff_ff02 };
  const begin: Made[] = [...handshake(), { flags: FIN | ACK, seq: 0xffff_ff01, ack: 0xffff_fff1 }];
  const end: Made[] = [
    { seq: 0xffff_ff02, ack: 0xffff_fff2 },
    { from: "client", flags: RST, seq: 0xffff_fff2 },
  ];
  const count = (segments: Made[]) => {
    const [{ clientRsts, clientRstsAfterEnd }] = trace(segments);
    return [clientRsts, clientRstsAfterEnd];
  };
  assert.deepEqual(count([...begin, fin, fin, ...end]), [1, 1]);
  assert.deepEqual(count([...begin, fin, ...end]), [1, 0]);
  assert.deepEqual(count([...begin, fin, fin, end[1]]), [1, 0]);
});

Deno.test("traceTcp() sees another connection in ports that are used again after the end", () => {
  const ending: Made[] = [
    ...handshake(),
    { flags: FIN | ACK, seq: 0xffff_ff01, ack: 0xffff_fff1 },
    { from: "client", flags: FIN | ACK, seq: 0xffff_fff1, ack: 0xffff_ff02 },
  ];
  const again: Made = { from: "client", flags: SYN, seq: 77 };
  assert.deepEqual(trace([...ending, again]).map((one) => one.clientIsns), [1, 1]);
  assert.deepEqual(trace([...ending.slice(0, 4), again]).map((one) => one.clientIsns), [2]);
});

Deno.test("traceTcp() finds the largest gap between the server's segments", () => {
  const [one] = trace([
    { atMs: 1000, seq: 0, payload: 10 },
    { atMs: 1005, seq: 10, payload: 10 },
    { atMs: 1020, from: "client" },
    { atMs: 1047.5, seq: 20, payload: 10 },
    { atMs: 1050, seq: 30, payload: 10 },
  ]);
  assert.equal(one.largestServerGapMs, 42.5);
  assert.equal(one.largestServerGapAtMs, 1005);
});

Deno.test("traceTcp() follows the server's octets across the wrap, holes and repetitions", () => {
  const [one] = trace([
    ...handshake(),
    { seq: 0xffff_ff01, payload: 0x100 }, // ends at 1, past the wrap
    { seq: 0x65, payload: 100 }, // a hole of 100 octets
    { seq: 0x01, payload: 60 }, // fills 60 of them
    { seq: 0x01, payload: 60 }, // repeats them
  ]);
  assert.equal(one.holesOpened, 1);
  assert.equal(one.octetsMissing, 40);
  assert.equal(one.serverOctets, 256 + 160);
  assert.equal(one.serverRepeatedOctets, 60);
});

Deno.test("traceTcp() counts a super-segment and a BIG TCP frame at full length", () => {
  const [one] = trace([
    { seq: 0, payload: 60_000 },
    { seq: 60_000, payload: 180_000 },
  ]);
  assert.deepEqual([one.serverOctets, one.octetsMissing, one.holesOpened], [240_000, 0, 0]);
});

Deno.test("traceTcp() sees the server's ACK go back, modulo 2^32", () => {
  const [one] = trace([...handshake(), { ack: 5 }, { ack: 0xffff_fff1 }, { ack: 6 }]);
  assert.deepEqual(one.ackRegressions, [{ timeMs: 4, before: 5, after: 0xffff_fff1 }]);
});

Deno.test("traceTcp() scales the window before it judges the right edge", () => {
  const scale7 = [3, 3, 7, 0];
  const steps: Made[] = [
    { ack: 0xffff_fff1, window: 100 }, // edge: 12 800 octets on
    { ack: 0x0000_0001, window: 100 }, // 16 further
    { ack: 0x0000_0081, window: 99 }, // same edge: 128 octets are one unit of the window
    { ack: 0x0000_0081, window: 98 }, // 128 back
  ];
  const [scaled] = trace([...handshake(scale7), ...steps]);
  assert.equal(scaled.rightEdgeRegressions.length, 1);
  assert.deepEqual(scaled.ackRegressions, []);
  const [plain] = trace([...handshake(), { ack: 1, window: 1200 }, { ack: 101, window: 1099 }]);
  assert.equal(plain.rightEdgeRegressions.length, 1);
});

Deno.test("traceTcp() sees TSval go back and timestamps disappear", () => {
  const [one] = trace([
    ...handshake(timestamps(0xffff_ffff)),
    { options: timestamps(3) },
    { options: timestamps(2) },
    { options: timestamps(3) },
    {},
  ]);
  assert.deepEqual(one.tsvalRegressions, [{ timeMs: 4, before: 3, after: 2 }]);
  assert.equal(one.timestampsMissing, 1);
});

Deno.test("traceTcp() reads the options of both SYNs", () => {
  const options = [2, 4, 5, 180, 4, 2, ...timestamps(9), 1, 3, 3, 7];
  const [one] = trace(handshake(options));
  const expected = {
    mss: 1460,
    sackPermitted: true,
    timestamps: { value: 9, echo: 0 },
    windowScale: 7,
  };
  assert.deepEqual(one.clientOptions, expected);
  assert.deepEqual(one.serverOptions, expected);
});

Deno.test("traceTcp() reads IPv6 behind an extension header", () => {
  const [one] = trace([
    ...handshake([], 6),
    { version: 6, seq: 0xffff_ff01, payload: 50 },
  ]);
  assert.equal(one.name, "2001:db8::1:40000 > 2001:db8::64:80");
  assert.deepEqual([one.clientSyns, one.serverSynAcks, one.serverOctets], [1, 1, 50]);
});

Deno.test("traceTcp() counts zero windows by side", () => {
  const [one] = trace([
    ...handshake(),
    { window: 0, ack: 1 },
    { from: "client", window: 0 },
    { from: "client", window: 0 },
  ]);
  assert.deepEqual([one.serverZeroWindows, one.clientZeroWindows], [1, 2]);
});

Deno.test("traceTcp() survives every truncation of a frame and a malformed option", () => {
  const whole = frameOf({ options: [8, 10, 0, 0, 0, 1, 0, 0, 0, 0], payload: 5 });
  for (let length = 0; length <= whole.octets.length; length++) {
    const octets = whole.octets.slice(0, length);
    withCapture([{ atMs: 1, octets, wireLength: whole.wireLength }], (path) => {
      assert.ok(traceTcp(path, "192.0.2.100").connections.length <= 1);
    });
  }
  const [one] = trace([{ options: [8, 0, 1, 1] }, { options: [8, 200, 1, 1], payload: 3 }]);
  assert.equal(one.serverOctets, 3);
});

Deno.test("readFrames() takes either byte order and refuses what is no capture", () => {
  const frame = { atMs: 1, ...frameOf({ payload: 3 }) };
  withCapture([frame], (path) => {
    assert.equal(traceTcp(path, "192.0.2.100").segments, 1);
  }, false);
  const path = Deno.makeTempFileSync();
  try {
    Deno.writeFileSync(path, new Uint8Array(30));
    assert.throws(() => traceTcp(path, "192.0.2.100"), /magic number is 0/);
  } finally {
    Deno.removeSync(path);
  }
});

Deno.test("addressClaims() lists ARP replies and announcements, not questions", () => {
  const arp = (operation: number, sender: number[], target: number[]) => {
    const mac = [2, 0, 0, 0, 0, 9];
    const head = [...Array(6).fill(255), ...mac, 8, 6, 0, 1, 8, 0, 6, 4, 0, operation];
    const octets = [...head, ...mac, ...sender, ...Array(6).fill(0), ...target];
    return { atMs: operation, octets, wireLength: octets.length };
  };
  const frames = [arp(1, CLIENT, SERVER), arp(2, SERVER, CLIENT), arp(1, SERVER, SERVER)];
  withCapture(frames, (path) => {
    const claims = addressClaims(path, "192.0.2.100");
    assert.deepEqual(claims.map((claim) => claim.timeMs), [2, 1]);
    assert.equal(claims[0].mac, "02:00:00:00:00:09");
    assert.deepEqual(addressClaims(path, "192.0.2.1"), []);
  });
});

Deno.test("addressClaims() lists neighbor advertisements", () => {
  const target = [0x20, 1, 0xd, 0xb8, ...Array(11).fill(0), 0x64];
  const network = [0x60, 0, 0, 0, 0, 24, 58, 255, ...target, 255, 2, ...Array(13).fill(0), 1];
  const octets = [
    ...Array(12).fill(2),
    0x86,
    0xdd,
    ...network,
    136,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    ...target,
  ];
  withCapture([{ atMs: 5, octets, wireLength: octets.length }], (path) => {
    assert.equal(addressClaims(path, "2001:db8::64").length, 1);
  });
});
