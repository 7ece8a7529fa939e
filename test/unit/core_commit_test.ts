/**
 * core_commit_test.ts - nothing leaves for a client that the standby could not go on from (P2)
 *
 * `strict`: the model is a queue. Each of the server's packets notes the number of the last message
 * that carried octets of clients or a new connection; it leaves, in its order, in the first pass in
 * which that number is committed and nothing stands before it. The core must do exactly that, whatever
 * the order of input, output, messages and commits. `ack`: octets leave at once, and what SEG.ACK says
 * is committed. Limits are met both by a caller that heeds `appBudget()` and by one that does not.
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import type { Random } from "../net/random.ts";
import {
  decodeRecords,
  Driver,
  type DriverOptions,
  encodeFail,
  encodeReport,
  fromClient,
  fromServer,
  on,
  Phase,
  Reason,
  RecordType,
} from "./core_driver.ts";
import type { Endpoint } from "./endpoint.ts";
import { Replicas } from "./replicas.ts";
import { pick, randomOctets, rounds, seededTest } from "./seeded.ts";
import { buildOptions, buildPacket, type Packet, parsePacket, TcpFlag } from "./twin.ts";

const IRS = 0xfffffe00;
const ISS = 0xffffff00;
const FIRST_PORT = 30000;
/** Octets of the hold ring, HOLD_SIZE in core/limits.ts. */
const HOLD_SIZE = 16 << 20;
/** Room kept free at its end, and what each packet needs beside itself. */
const HOLD_RESERVE = 65536 + 8;
/** A window scale with which any window fits. */
const SCALE = 14;

/** A primary with connections, and what each side has said so far. */
class Primary {
  readonly driver: Driver;
  /** Octets of each client's stream, and of each server's. */
  readonly received: number[] = [];
  readonly said: number[] = [];
  /** Number of the last message with something output depends on; highest committed. */
  lastInput = 0;
  committed = 0;

  constructor(connections: number, options: DriverOptions = {}, standby = true) {
    this.driver = new Driver(options);
    const { wasm } = this.driver.core;
    wasm.promote(0);
    if (standby) wasm.standbyJoined(1 << 30);
    const syn = { mss: 1460, scale: SCALE };
    for (let index = 0; index < connections; index++) {
      this.received.push(0);
      this.said.push(0);
      const flags = TcpFlag.syn | TcpFlag.ack;
      const ends = { seq: ISS, ack: IRS + 1, window: 65535, flags };
      const options = buildOptions(syn);
      this.driver.pass({
        net: [this.heard(index, { seq: IRS, ack: 0, flags: TcpFlag.syn, options })],
        app: [this.answer(index, { ...ends, options })],
      });
      this.commit();
      const [out] = on("app", this.driver.pass({ net: [this.heard(index, {})] }));
      strictEqual(parsePacket(out).ack, ISS + 1);
      this.driver.pass({ app: [this.answer(index, {})] });
    }
    this.commit();
  }

  /** A segment of a client's. */
  heard(index: number, fields: Partial<Packet>): Uint8Array {
    const seq = (IRS + 1 + this.received[index]) >>> 0;
    const ack = (ISS + 1) >>> 0;
    return buildPacket(fromClient({ sourcePort: FIRST_PORT + index, seq, ack, ...fields }));
  }

  /** Octets of a client's. */
  input(index: number, length: number): Uint8Array {
    const packet = this.heard(index, { payload: new Uint8Array(length).fill(index) });
    this.received[index] += length;
    return packet;
  }

  /** A segment of a server's, which has read all there is. */
  answer(index: number, fields: Partial<Packet>): Uint8Array {
    const seq = (ISS + 1 + this.said[index]) >>> 0;
    const ack = (IRS + 1 + this.received[index]) >>> 0;
    const ports = { destinationPort: FIRST_PORT + index };
    return buildPacket(fromServer({ ...ports, seq, ack, window: 16384, ...fields }));
  }

  /** Octets of a server's. */
  output(index: number, payload: Uint8Array): Uint8Array {
    const partial = { checksum: "partial", gsoSize: 1448 } as const;
    const packet = this.answer(index, { payload, ...(payload.length > 1448 ? partial : {}) });
    this.said[index] += payload.length;
    return packet;
  }

  /** Everything said so far is committed. */
  commit(): void {
    this.committed = this.driver.takeBody()?.seq ?? this.committed;
    this.driver.core.wasm.committed(this.committed);
  }
}

/** The payloads of what leaves for clients. */
function payloadsOf(outputs: ReturnType<Driver["pass"]>): string[] {
  return on("net", outputs).map(parsePacket).filter(({ payload }) => payload.length > 0)
    .map(({ destinationPort, seq, payload }) => `${destinationPort} ${seq} ${payload.join()}`);
}

seededTest(
  "strict: output leaves in its order, at once when committed and never before",
  (random) => {
    for (let round = 0; round < rounds(20); round++) {
      const primary = new Primary(3);
      const { driver } = primary;
      const { wasm } = driver.core;
      const queue: { needs: number; what: string }[] = [];
      let sealed = primary.committed;
      let held = 0;
      for (let step = 0; step < 150; step++) {
        const talker = random.integer(3);
        const net = random.next() < 0.4 ? [primary.input(talker, 1 + random.integer(50))] : [];
        // Pure ACKs are no input: a download is never held for them.
        if (random.next() < 0.5) net.push(primary.heard(random.integer(3), {}));
        if (net.length > 0 && parsePacket(net[0]).payload.length > 0) {
          primary.lastInput = wasm.messageSeq();
        }
        const app = Array.from(
          { length: random.integer(4) },
          () => primary.output(random.integer(3), randomOctets(random, 1 + random.integer(20))),
        );
        for (const packet of app) {
          const { destinationPort, seq, payload } = parsePacket(packet);
          const what = `${destinationPort} ${seq} ${payload.join()}`;
          queue.push({ needs: primary.lastInput, what });
        }
        if (random.next() < 0.4) {
          // Now and then a number of the past, or of a message that was never sent.
          primary.committed = Math.min(sealed, primary.committed + random.integer(4));
          wasm.committed(pick(random, [primary.committed, sealed + 1, sealed + 1000, 0]));
          wasm.committed(primary.committed);
        }
        const due = queue.findIndex(({ needs }) => needs > primary.committed);
        const released = queue.splice(0, due === -1 ? queue.length : due);
        deepStrictEqual(payloadsOf(driver.pass({ net, app })), released.map(({ what }) => what));
        strictEqual(wasm.heldCount(), queue.length);
        held = Math.max(held, queue.length);
        if (random.next() < 0.6) sealed = driver.takeBody()?.seq ?? sealed;
      }
      ok(held > 3, "nothing was ever held");
      wasm.committed(driver.takeBody()?.seq ?? sealed);
      deepStrictEqual(payloadsOf(driver.pass()), queue.map(({ what }) => what));
    }
  },
);

for (const commit of ["strict", "ack"] as const) {
  Deno.test(`${commit}: a SYN-ACK waits until the standby has the record`, () => {
    const primary = new Primary(0, { commit });
    const { driver } = primary;
    const options = buildOptions({ mss: 1460 });
    const ports = { sourcePort: 5, destinationPort: 5 };
    const syn = fromClient({ seq: 1, flags: TcpFlag.syn, options });
    const flags = TcpFlag.syn | TcpFlag.ack;
    const synAck = buildPacket(fromServer({ seq: 2, ack: 2, flags, options }));
    strictEqual(on("app", driver.pass({ net: [buildPacket({ ...syn })] })).length, 1);
    deepStrictEqual(driver.pass({ app: [synAck] }), []);
    // Others need not wait for it unless they come after it.
    deepStrictEqual(
      driver.pass({ net: [buildPacket(fromClient({ ...ports, seq: 9 }))] }).length,
      1,
    );
    const message = driver.takeBody();
    deepStrictEqual(decodeRecords(message?.body ?? synAck).map(({ type }) => type), [
      RecordType.open,
    ]);
    deepStrictEqual(driver.pass(), []);
    driver.core.wasm.committed(message?.seq ?? 0);
    deepStrictEqual(on("net", driver.pass()), [synAck]);
  });
}

/** ACK and right edge of segments, as offsets of the client's stream. */
function shownBy(outputs: ReturnType<Driver["pass"]>): [ack: number, edge: number][] {
  return on("net", outputs).map(parsePacket).map(({ ack, window }) => {
    const at = (ack - IRS - 1) | 0;
    return [at, at + window * 2 ** SCALE];
  });
}

Deno.test("ack: octets leave at once, SEG.ACK says what is committed, the right edge stays", () => {
  const primary = new Primary(1, { commit: "ack" });
  const { driver } = primary;
  const edge = 16384 * 2 ** SCALE;
  const report = (got: number) =>
    encodeReport(0, (IRS + 1 + got) >>> 0, (IRS + 1 + (1 << 29)) >>> 0);
  driver.pass({ bodies: [report(0)] });
  const [[firstAck, firstEdge]] = shownBy(
    driver.pass({ app: [primary.output(0, new Uint8Array(10))] }),
  );
  deepStrictEqual([firstAck, firstEdge], [0, edge]);
  driver.pass({ net: [primary.input(0, 3 << SCALE >> 1)] });
  const carried = driver.pass({ app: [primary.output(0, new Uint8Array(10))] });
  // The server has read 1.5 units of the window more; the ACK stays, so the window is larger by 2.
  deepStrictEqual(shownBy(carried), [[0, edge + (2 << SCALE)]]);
  strictEqual(on("net", carried).map(parsePacket)[0].payload.length, 10);
  // Without octets it would only be a duplicate ACK.
  deepStrictEqual(on("net", driver.pass({ app: [primary.answer(0, {})] })), []);
  strictEqual(driver.counter("acksDropped"), 1);
  // When the commit advances with nothing to carry it, the core says so itself.
  const [[ack, after]] = shownBy(driver.pass({ bodies: [report(20000)] }));
  strictEqual(ack, 20000);
  ok(after >= edge + (2 << SCALE) && after < edge + (4 << SCALE), `edge ${after}`);
  deepStrictEqual(driver.pass({ bodies: [report(20000)] }), []);
  // A standby cannot confirm what there never was, nor take back what it has confirmed.
  deepStrictEqual(shownBy(driver.pass({ bodies: [report(1 << 20)] })).map(([at]) => at), [
    primary.received[0],
  ]);
  deepStrictEqual(driver.pass({ bodies: [report(5)] }), []);
});

Deno.test("a standby that is lost lets everything go, in order, and its connections say so", () => {
  for (const commit of ["strict", "ack"] as const) {
    const primary = new Primary(2, { commit });
    const { driver } = primary;
    driver.pass({ net: [primary.input(0, 100), primary.input(1, 50)] });
    const app = Array.from(
      { length: 6 },
      (_, i) => primary.output(i % 2, new Uint8Array(5).fill(i)),
    );
    const before = payloadsOf(driver.pass({ app }));
    strictEqual(before.length, commit === "strict" ? 0 : 6);
    driver.core.wasm.standbyLost();
    const outputs = driver.pass();
    const expected = app.map(parsePacket)
      .map(({ destinationPort, seq, payload }) => `${destinationPort} ${seq} ${payload.join()}`);
    deepStrictEqual([...before, ...payloadsOf(outputs)], expected);
    strictEqual(driver.core.wasm.heldCount(), 0);
    for (const index of [0, 1]) strictEqual(driver.field(index, "reason"), Reason.standbyLost);
    const acks = on("net", outputs).map(parsePacket).map(({ ack }) => (ack - IRS - 1) | 0);
    ok(acks.includes(100) && acks.includes(50), `ACKs of ${acks}`);
    // From here on nothing waits.
    driver.pass({ net: [primary.input(0, 10)] });
    strictEqual(payloadsOf(driver.pass({ app: [primary.output(0, new Uint8Array(3))] })).length, 1);
  }
});

/** What may become of the standby once both sides have ended a connection. */
const LATE: Record<string, (driver: Driver) => Parameters<Driver["pass"]>[0]> = {
  "is lost": (driver) => ({ between: () => driver.core.wasm.standbyLost() }),
  "says that its server has reset it": () => ({ bodies: [encodeFail(0, Reason.standbyReset)] }),
};

for (const [what, late] of Object.entries(LATE)) {
  Deno.test(`a client that has finished is told nothing when the standby ${what}`, () => {
    const primary = new Primary(1);
    const { driver } = primary;
    const said = 100;
    const fin = TcpFlag.fin | TcpFlag.ack;
    driver.pass({ app: [primary.output(0, new Uint8Array(said))] });
    const end = (ISS + 1 + said) >>> 0;
    const edge = (IRS + (1 << 29)) >>> 0;
    driver.pass({ bodies: [encodeReport(0, IRS + 1, edge, { accepted: true })] });
    deepStrictEqual(on("net", driver.pass({ app: [primary.answer(0, { flags: fin })] })), []);
    const agreed = driver.pass({
      bodies: [encodeReport(0, IRS + 1, edge, { output: end, fin: true })],
    });
    strictEqual(on("net", agreed).map(parsePacket)[0].flags & TcpFlag.fin, TcpFlag.fin);
    driver.pass({ net: [primary.heard(0, { flags: fin, ack: (end + 1) >>> 0 })] });
    primary.commit();
    driver.pass({ app: [primary.answer(0, { seq: (end + 1) >>> 0, ack: (IRS + 2) >>> 0 })] });
    strictEqual(driver.field(0, "phase"), Phase.closed);
    driver.drain();
    deepStrictEqual(on("net", driver.pass(late(driver))), []);
    deepStrictEqual(on("net", driver.drain()), []);
  });
}

Deno.test("a standby that gives a connection up is told to forget it, but for one that hangs", () => {
  for (const reason of [Reason.standbyReset, Reason.standbyEnded, Reason.standbyHangs]) {
    const primary = new Primary(1);
    const { driver } = primary;
    driver.drain();
    driver.pass({ bodies: [encodeFail(0, reason)] });
    const closes = decodeRecords(driver.takeBody()?.body ?? new Uint8Array())
      .filter(({ type }) => type === RecordType.close);
    strictEqual(closes.length, reason === Reason.standbyHangs ? 0 : 1, `reason ${reason}`);
    strictEqual(driver.field(0, "reason"), reason);
  }
});

Deno.test("a server that dies before the standby's has accepted is kept from the client", () => {
  const primary = new Primary(1);
  const { driver } = primary;
  driver.core.wasm.setJudgement(500);
  const reset = primary.answer(0, { flags: TcpFlag.rst | TcpFlag.ack });
  deepStrictEqual(on("net", driver.pass({ app: [reset] })), []);
  strictEqual(driver.field(0, "reason"), Reason.pending);
  // A standby whose server does not accept at all says nothing of ours.
  driver.nowMs += 501;
  const told = on("net", driver.pass({})).concat(on("net", driver.drain())).map(parsePacket);
  deepStrictEqual(told.map(({ flags }) => flags & TcpFlag.rst), [TcpFlag.rst]);
  strictEqual(driver.core.wasm.recordsUsed() <= 1, true);
});

/** Longer than `fin_wait` and any doubt about it, milliseconds. */
const LONG_MS = 20_000;

/** Ours resets after 100 octets, with input unread: where theirs has ended, and up to where they match. */
const ENDS: Record<string, { ahead: number; same: number; told: boolean; judged: string[] }> = {
  "is reset with it": { ahead: 0, same: 0, told: true, judged: [] },
  "has died when theirs has answered more": {
    ahead: 8,
    same: 8,
    told: false,
    judged: ["oursEnded"],
  },
  "is looked at once both are compared": { ahead: 8, same: -9, told: false, judged: [] },
};

for (const [what, { ahead, same, told, judged }] of Object.entries(ENDS)) {
  Deno.test(`a server that resets where theirs has ended in good order ${what}`, () => {
    const primary = new Primary(1);
    const { driver } = primary;
    const said = 100;
    const end = (ISS + 1 + said) >>> 0;
    const edge = (IRS + (1 << 29)) >>> 0;
    driver.core.wasm.setJudgement(500);
    driver.pass({ bodies: [encodeReport(0, IRS + 1, edge, { accepted: true })] });
    driver.pass({ app: [primary.output(0, new Uint8Array(said))] });
    const reset = primary.answer(0, { flags: TcpFlag.rst | TcpFlag.ack });
    deepStrictEqual(on("net", driver.pass({ app: [reset] })), []);
    const theirs = { output: (end + ahead) >>> 0, same: (end + same) >>> 0, fin: true };
    const outputs = driver.pass({ bodies: [encodeReport(0, IRS + 1, edge, theirs)] });
    const resets = on("net", outputs).map(parsePacket).filter(({ flags }) => flags & TcpFlag.rst);
    strictEqual(resets.length, told ? 1 : 0);
    const kinds = (): string[] => driver.takeFindings().map(({ kind }) => kind);
    deepStrictEqual(kinds(), judged);
    driver.nowMs += LONG_MS;
    deepStrictEqual(on("net", driver.drain()), []);
    deepStrictEqual(kinds(), told || judged.length > 0 ? [] : ["oursEnded"]);
  });
}

Deno.test("no end is judged while the standby confirms nothing: its own may be as late", () => {
  const primary = new Primary(1);
  const { driver } = primary;
  const edge = (IRS + (1 << 29)) >>> 0;
  driver.core.wasm.setJudgement(500);
  driver.pass({
    bodies: [encodeReport(0, IRS + 1, edge, { accepted: true, output: (ISS + 1) >>> 0 })],
  });
  driver.pass({ net: [primary.input(0, 100)] });
  driver.pass({ app: [primary.answer(0, { flags: TcpFlag.fin | TcpFlag.ack })] });
  driver.nowMs += LONG_MS;
  driver.drain();
  deepStrictEqual(driver.takeFindings(), []);
  primary.commit();
  driver.nowMs += LONG_MS;
  driver.drain();
  deepStrictEqual(driver.takeFindings().map(({ kind }) => kind), ["oursEnded"]);
});

Deno.test("ack: a connection is over when our own ACK of the client's FIN is its last segment", () => {
  const primary = new Primary(1, { commit: "ack" });
  const { driver } = primary;
  const fin = TcpFlag.fin | TcpFlag.ack;
  const [end, finished] = [(ISS + 1) >>> 0, (IRS + 2) >>> 0];
  const edge = (IRS + (1 << 29)) >>> 0;
  driver.pass({ bodies: [encodeReport(0, IRS + 1, edge, { accepted: true })] });
  driver.pass({ net: [primary.heard(0, { flags: fin })] });
  driver.pass({ app: [primary.answer(0, { flags: fin, ack: finished })] });
  const agreed = { accepted: true, output: end, fin: true };
  const [told] = on("net", driver.pass({ bodies: [encodeReport(0, IRS + 1, edge, agreed)] }));
  const { flags, ack } = parsePacket(told);
  deepStrictEqual(
    [flags & TcpFlag.fin, ack],
    [TcpFlag.fin, IRS + 1],
    "its FIN is not committed yet",
  );
  driver.pass({ net: [primary.heard(0, { seq: finished, ack: (end + 1) >>> 0 })] });
  strictEqual(driver.field(0, "phase"), Phase.closing);
  const last = on("net", driver.pass({ bodies: [encodeReport(0, finished, edge, agreed)] }));
  deepStrictEqual(last.map(parsePacket).map(({ ack }) => ack), [finished]);
  strictEqual(driver.field(0, "phase"), Phase.closed);
});

/** True when all octets are `octet`, as far as every 61st tells. */
function isFilled(octets: Uint8Array, octet: number): boolean {
  for (let at = 0; at < octets.length; at += 61) if (octets[at] !== octet) return false;
  return octets.at(-1) === octet;
}

/** Random packets, as many as the budget allows now, in passes, until it allows none. */
function fill(random: Random, primary: Primary, size: () => number): Uint8Array[] {
  const { driver } = primary;
  const packets: Uint8Array[] = [];
  for (let budget = driver.core.wasm.appBudget(); budget > 0;) {
    const app = Array.from(
      { length: budget },
      () => primary.output(0, new Uint8Array(size()).fill(random.integer(256))),
    );
    deepStrictEqual(on("net", driver.pass({ app })), []);
    packets.push(...app);
    budget = driver.core.wasm.appBudget();
  }
  return packets;
}

seededTest(
  "a full hold ring stops the caller, loses nothing, and goes on past its end",
  (random) => {
    const primary = new Primary(1);
    const { driver } = primary;
    const sizes = [() => 60000, () => 40000 + random.integer(25000)];
    for (let turn = 0; turn < 3; turn++) {
      driver.pass({ net: [primary.input(0, 100)] });
      const packets = fill(random, primary, pick(random, sizes));
      ok(packets.reduce((sum, { length }) => sum + length, 0) > HOLD_SIZE / 2);
      strictEqual(driver.counter("swallowed"), 0);
      strictEqual(driver.core.wasm.heldCount(), packets.length);
      primary.commit();
      const released = on("net", driver.pass());
      strictEqual(released.length, packets.length);
      for (const [index, packet] of released.entries()) {
        const [got, expected] = [parsePacket(packet), parsePacket(packets[index])];
        strictEqual(got.seq, expected.seq);
        ok(isFilled(got.payload, expected.payload[0]), `packet ${index} changed`);
        strictEqual(got.payload.length, expected.payload.length);
      }
      driver.pass();
      strictEqual(driver.core.wasm.appBudget(), driver.core.wasm.batch());
    }
  },
);

Deno.test("a caller that does not stop loses what does not fit, and nothing else", () => {
  const primary = new Primary(1);
  const { driver } = primary;
  driver.pass({ net: [primary.input(0, 100)] });
  const length = 60000;
  const sent = Math.ceil(HOLD_SIZE / length) + 20;
  for (let i = 0; i < sent; i++) {
    driver.pass({ app: [primary.output(0, new Uint8Array(length).fill(i))] });
  }
  const held = driver.core.wasm.heldCount();
  strictEqual(held, Math.floor((HOLD_SIZE - HOLD_RESERVE) / (length + 56)));
  strictEqual(driver.counter("swallowed"), sent - held);
  primary.commit();
  const released = on("net", driver.pass()).map(parsePacket);
  strictEqual(released.length, held);
  for (const [i, { payload }] of released.entries()) {
    ok(isFilled(payload, i % 256));
  }
});

Deno.test("more than one output list of held packets leaves in several passes, in order", () => {
  const primary = new Primary(1);
  const { driver } = primary;
  const { wasm } = driver.core;
  driver.pass({ net: [primary.input(0, 1)] });
  const count = 2 * wasm.outMax() + 100;
  const batch = Array.from({ length: count }, () => primary.output(0, new Uint8Array(1)));
  deepStrictEqual(on("net", driver.pass({ app: batch })), []);
  strictEqual(wasm.heldCount(), count);
  primary.commit();
  const passes = [driver.pass()];
  while (wasm.more() !== 0) passes.push(driver.pass());
  deepStrictEqual(passes.map(({ length }) => length), [wasm.outMax(), wasm.outMax(), 100]);
  const seqs = on("net", passes.flat()).map((packet) => (parsePacket(packet).seq - ISS - 1) | 0);
  ok(seqs.every((seq, index) => seq === index));
});

function shout(server: Endpoint): void {
  server.onOctets = (octets) => server.write(octets.map((octet) => octet ^ 0x5a));
  server.onEnd = () => server.end();
}

for (const change of ["crash", "switch"] as const) {
  seededTest(
    `held output at a ${change}: the client reads it once, from who speaks then`,
    (random) => {
      for (let round = 0; round < rounds(6); round++) {
        const replicas = new Replicas({ program: shout, number: () => random.seed() });
        const client = replicas.connect(9000);
        replicas.run(() => client.state === "open");
        const first = randomOctets(random, 1 + random.integer(3000));
        client.write(first);
        replicas.run(() => client.received.length === first.length);
        // From here on the standby confirms nothing, and nothing may be said to the client.
        if (replicas.standby !== null) replicas.standby.lag = 1000;
        const second = randomOctets(random, 1 + random.integer(30000));
        client.write(second);
        for (let step = random.integer(30) + 5; step > 0; step--) replicas.step();
        strictEqual(client.received.length, first.length);
        ok(replicas.primary.driver.core.wasm.heldCount() > 0, "nothing is held");
        if (change === "crash") replicas.crash();
        else replicas.switchOver();
        client.end();
        replicas.run(() => client.ended && client.isDrained);
        const expected = [...first, ...second].map((octet) => octet ^ 0x5a);
        deepStrictEqual([...client.received], expected);
      }
    },
  );
}
