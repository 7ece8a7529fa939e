/**
 * core_window_test.ts - what a primary lets pass, tells its standby, and shows the client
 *
 * Client segments overlap, repeat, change and overtake each other at random; the kernel's window opens
 * and shrinks as it likes, the standby promises what it likes. Claims: the standby hears the first copy
 * of all that passes and nothing else (DESIGN 5.2), ACK and right edge never move back, whatever the
 * scale, and neither lies beyond what the standby holds or will hold (DESIGN 5.3).
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { Random } from "../net/random.ts";
import {
  decodeRecords,
  Driver,
  encodeData,
  encodeOpen,
  encodeProgress,
  encodeReport,
  fromClient,
  fromServer,
  LOG_LIMIT,
  on,
  openOf,
  RecordType,
} from "./core_driver.ts";
import { firstNumber, Octets } from "./octets.ts";
import { pick, randomOctets, rounds, seededTest } from "./seeded.ts";
import { buildOptions, buildPacket, type Packet, parsePacket, TcpFlag } from "./twin.ts";

/** A protected connection on a primary, and what both sides were told. */
class Speaker {
  readonly driver = new Driver({ commit: "ack" });
  readonly irs: number;
  readonly iss: number;
  readonly scale: number;
  /** Right edge, and ACK, the client was shown last, as offsets. */
  edge: number;
  ack = 0;

  constructor(random: Random, scale: number) {
    this.irs = firstNumber(random);
    this.iss = firstNumber(random);
    this.scale = scale;
    this.driver.core.wasm.promote(0);
    this.driver.core.wasm.standbyJoined(1 << 16);
    const options = buildOptions({ mss: 1460, sackPermitted: true, scale });
    this.driver.pass({ net: [this.heard({ seq: this.irs, flags: TcpFlag.syn, ack: 0, options })] });
    const flags = TcpFlag.syn | TcpFlag.ack;
    const ack = this.irs + 1;
    const window = 1000;
    const synAck = buildPacket(fromServer({ seq: this.iss, ack, flags, window, options }));
    this.driver.pass({ app: [synAck] });
    this.commit();
    this.driver.pass({ net: [this.heard({})] });
    this.edge = window;
  }

  heard(fields: Partial<Packet>): Uint8Array {
    return buildPacket(fromClient({ seq: this.irs + 1, ack: this.iss + 1, ...fields }));
  }

  /** The message that waits, which is committed. */
  commit(): Uint8Array {
    const message = this.driver.takeBody();
    if (message === null) return new Uint8Array(0);
    this.driver.core.wasm.committed(message.seq);
    return message.body;
  }

  /** ACK and right edge never move back; `most` is the furthest that may be shown. */
  checkShown(outputs: ReturnType<Driver["pass"]>, most: number): void {
    for (const { ack, window } of on("net", outputs).map(parsePacket)) {
      const at = (ack - this.irs - 1) | 0;
      const edge = at + window * 2 ** this.scale;
      ok(at >= this.ack, `ACK moved back from ${this.ack} to ${at}`);
      ok(edge >= this.edge, `right edge moved back from ${this.edge} to ${edge}`);
      ok(edge < Math.max(this.edge, most) + 2 ** this.scale, `edge ${edge} beyond ${most}`);
      this.ack = at;
      this.edge = edge;
    }
  }
}

seededTest(
  "a primary tells its standby the first copy of all it lets pass, and no more",
  (random) => {
    for (let round = 0; round < rounds(25); round++) {
      const scale = pick(random, [0, 1, 7, 14]);
      const speaker = new Speaker(random, scale);
      const { driver, irs, iss } = speaker;
      const total = 40000;
      const passed = new Octets(total);
      const standby = new Octets(total);
      let kernelEdge = 1000;
      let peerEdge = 1 << 16;
      for (let step = 0; step < 300; step++) {
        const at = Math.max(0, passed.next + random.integer(3000) - 1200);
        const payload = randomOctets(random, random.integer(1500)).subarray(0, total - at);
        const segment = speaker.heard({ seq: irs + 1 + at, payload });
        const fits = at + payload.length <= speaker.edge;
        const outputs = driver.pass({ net: [segment] });
        deepStrictEqual(on("app", outputs), fits || payload.length === 0 ? [segment] : []);
        speaker.checkShown(outputs, 0);
        // One that does not fit is answered with where we stand, as a full receiver does.
        strictEqual(on("net", outputs).length > 0, !fits && payload.length > 0);
        if (fits) passed.put(at, payload);
        for (const { type, words, octets } of decodeRecords(speaker.commit())) {
          if (type === RecordType.data) standby.put((words[0] - irs - 1) | 0, octets);
        }
        ok(!fits || standby.has(at, payload.length), `octets at ${at} passed unseen`);
        // The kernel's window may even shrink, and the standby promises what it likes.
        const window = random.integer(65536 >> Math.min(scale, 9));
        kernelEdge = Math.max(kernelEdge, passed.next + window * 2 ** scale);
        const promise = standby.next + random.integer(1 << 16);
        peerEdge = Math.max(peerEdge, promise);
        const seqs = [irs + 1 + standby.next, irs + 1 + promise].map((seq) => seq >>> 0);
        const ack = (irs + 1 + passed.next) >>> 0;
        const answered = driver.pass({
          app: [buildPacket(fromServer({ seq: iss + 1, ack, window }))],
          bodies: random.next() < 0.7 ? [encodeReport(0, seqs[0], seqs[1])] : [],
        });
        speaker.checkShown(answered, Math.min(kernelEdge, peerEdge));
        ok(speaker.ack <= standby.next, `ACK of ${speaker.ack}, committed is ${standby.next}`);
      }
      strictEqual(standby.next, passed.next);
      ok(standby.next > 0);
      deepStrictEqual(
        standby.octets.subarray(0, standby.next),
        passed.octets.subarray(0, passed.next),
      );
    }
  },
);

Deno.test("a client that was shown its kernel's wide window is fed no more than the log holds, and not reset", () => {
  const driver = new Driver();
  const { wasm } = driver.core;
  const [irs, iss, serverIss] = [1000, 500_000, 7000];
  const wide = 65_535;
  let said = 0;
  const server = (fields: Partial<Packet>) => {
    const seq = serverIss + 1;
    return driver.pass({ app: [buildPacket(fromServer({ seq, window: wide, ...fields }))] });
  };
  const client = (length: number, ack: number) => {
    const payload = new Uint8Array(length);
    const packet = buildPacket(fromClient({ seq: irs + 1 + said, ack, payload }));
    const outputs = driver.pass({ net: [packet] });
    const shown = on("net", outputs).map(parsePacket);
    for (const { flags } of shown) {
      strictEqual(flags & TcpFlag.rst, 0, `a reset after ${said} octets`);
    }
    said = shown.reduce((most, { ack }) => Math.max(most, ack - irs - 1), said);
    return shown;
  };
  const edges = (shown: Packet[]) => shown.map(({ ack, window }) => ack + window * 128 - irs - 1);

  driver.core.wasm.setRole(1);
  driver.pass({ bodies: [encodeOpen(0, openOf({ irs, iss, scale: [7, 7] }))] });
  const options = buildOptions({ mss: 1460, sackPermitted: true, scale: 7 });
  server({ seq: serverIss, ack: irs + 1, flags: TcpFlag.syn | TcpFlag.ack, options });
  const progress = { cliAck: iss + 1, cliWnd: 1000, ackShown: irs + 1, edgeShown: irs + 60_001 };
  driver.pass({ bodies: [encodeProgress(0, { ...progress, sndShown: iss + 1 })] });
  wasm.promote(0);
  driver.drain();
  // Even with its server, it passes directly, and so does the server's window.
  server({ ack: irs + 1, payload: Uint8Array.of(1) });
  client(0, iss + 2);
  const second = { seq: serverIss + 2, ack: irs + 1, payload: Uint8Array.of(2) };
  const passed = on("net", server(second)).map(parsePacket);
  deepStrictEqual(edges(passed), [wide * 128]);
  // It has an octet of the old primary's that our server has yet to write, and is fed from now on.
  for (let i = 0; i < 40; i++) client(60_000, iss + 5);
  ok(said > LOG_LIMIT && said < LOG_LIMIT + 200_000, `${said} octets were taken`);
  // As its server reads, it goes on.
  const before = said;
  server({ seq: serverIss + 3, ack: irs + 1 + 500_000 });
  for (let i = 0; i < 4; i++) client(60_000, iss + 5);
  strictEqual(said, before + 4 * 60_000);
});

Deno.test("a server whose word of its first octets is missing at a switch is fed on by the new standby", () => {
  const speaker = new Speaker(new Random(1), 7);
  const { driver } = speaker;
  const [first, next, edge] = [1, 101, 60_001].map((at) => (speaker.irs + at) >>> 0);
  const passed = driver.pass({
    net: [speaker.heard({ seq: first, payload: new Uint8Array(100) })],
  });
  strictEqual(on("app", passed).length, 1);
  speaker.commit();
  const output = (speaker.iss + 1) >>> 0;
  driver.pass({ bodies: [encodeReport(0, next, edge, { output, accepted: true })] });
  driver.core.wasm.demote();
  const more = new Uint8Array(50).fill(2);
  const fed = on("app", driver.pass({ bodies: [encodeData(0, next, more)] })).map(parsePacket);
  deepStrictEqual(fed.map(({ seq, payload }) => [seq, payload]), [[next, more]]);
});
