/**
 * core_fuzz_test.ts - packets and message bodies from people who mean harm
 *
 * Claim: whatever arrives, from clients, from the local server or from the peer, the core neither
 * traps nor reads or writes beside its buffers nor grows its memory, loses no block, and goes on
 * serving everybody else octet for octet. hostile.ts says how a read or write beside a buffer shows.
 *
 * KEPT_SEEDS are run every time, before a fresh one; add a seed here when it has found something.
 */
import { ok, strictEqual } from "node:assert/strict";
import { Random } from "../net/random.ts";
import {
  CLIENT_V4,
  CLIENT_V6,
  CloseHow,
  Driver,
  encodeClose,
  encodeCut,
  encodeData,
  encodeFail,
  encodeMark,
  encodeOpen,
  encodeProgress,
  encodeReport,
  fromClient,
  fromServer,
  joined,
  on,
  openOf,
} from "./core_driver.ts";
import { clientPortOf, type Endpoint } from "./endpoint.ts";
import { damaged, type Moment, packetsFor, Pair, shortened } from "./hostile.ts";
import { type Host, Replicas } from "./replicas.ts";
import { pick, randomOctets, rounds, seededTest } from "./seeded.ts";
import { buildOptions, buildPacket, digestOf, parsePacket, TcpFlag } from "./twin.ts";

const KEPT_SEEDS = [1, 560510110, 2882343476];
const FAMILIES = [4, 6] as const;
const VICTIMS = 3;
const FIRST_PORT = 20000;
/** Of no octets: emptyValue() of core/stream/digest.ts. */
const EMPTY_DIGEST = digestOf(new Uint8Array());
const IRS = 0xffffff00;
const ISS = 0xfffffff0;
/** ISS of the local server where somebody else spoke first. */
const LOCAL_ISS = 77;

const ROLES = ["silent", "relaying", "standby", "primary", "alone", "taken", "switched"] as const;
type RigRole = typeof ROLES[number];

/** A pair with live connections, and where they stood last. */
interface Rig {
  pair: Pair;
  client: Uint8Array;
  moments: Moment[];
}

function rig(family: 4 | 6, role: RigRole, commit: "strict" | "ack" = "strict"): Rig {
  const pair = new Pair({ family, commit, capacity: 16, logLimit: 1 << 16 });
  const client = family === 4 ? CLIENT_V4 : CLIENT_V6;
  const speaks = role === "primary" || role === "alone";
  pair.each(({ core: { wasm } }) => {
    if (speaks) wasm.promote(0);
    else wasm.setRole(1);
    wasm.setPeerLogLimit(1 << 16);
    wasm.setKeep(1 << 14);
    wasm.setHint(1);
    if (role === "primary") wasm.standbyJoined(1 << 16);
  });
  const moments = Array.from({ length: VICTIMS }, (_, index) => {
    const port = FIRST_PORT + index;
    if (speaks) begin(pair, family, port);
    else follow(pair, family, index, port);
    const next: [number, number] = [(IRS + 1) >>> 0, (ISS + 1) >>> 0];
    return { family, port, client: next, server: [next[1], next[0]] as [number, number] };
  });
  if (role === "taken" || role === "switched") {
    pair.each((driver) => driver.takeOver(role === "switched" ? "peer" : "nobody"));
    pair.takeBody();
  }
  if (role === "silent") pair.each(({ core: { wasm } }) => wasm.setRole(0));
  if (role === "relaying") pair.each(({ core: { wasm } }) => wasm.relay(1));
  return { pair, client, moments };
}

/** Which options a victim has. */
function synOptions(port: number): Uint8Array {
  const plain = port % 3 === 0;
  return buildOptions({
    mss: 1460,
    sackPermitted: true,
    stamps: plain ? undefined : [1000, 900],
    scale: port % 3 === 1 ? 7 : undefined,
  });
}

/** A handshake through a primary. */
function begin(pair: Pair, family: 4 | 6, port: number): void {
  const options = synOptions(port);
  const ports = { sourcePort: port };
  const syn = fromClient({ ...ports, flags: TcpFlag.syn, seq: IRS, options }, family);
  const answer = { flags: TcpFlag.syn | TcpFlag.ack, seq: ISS, ack: IRS + 1, options };
  const ack = { seq: IRS + 1, ack: ISS + 1, options: stampsOf(port) };
  pair.pass({ net: [buildPacket(syn)] });
  pair.pass({ app: [buildPacket(fromServer({ destinationPort: port, ...answer }, family))] });
  const [out] = on(
    "app",
    pair.pass({ net: [buildPacket(fromClient({ ...ports, ...ack }, family))] }),
  );
  strictEqual(parsePacket(out).ack, ISS + 1);
}

function stampsOf(port: number): Uint8Array {
  return buildOptions(port % 3 === 0 ? {} : { shift: 2, stamps: [1000, 900] });
}

/** A connection a standby's server has opened. */
function follow(pair: Pair, family: 4 | 6, index: number, port: number): void {
  const plain = port % 3 === 0;
  const open = openOf({
    client: family === 4 ? CLIENT_V4 : CLIENT_V6,
    clientPort: port,
    irs: IRS,
    iss: ISS,
    stamps: plain ? null : [1000, 900],
    scale: port % 3 === 1 ? [7, 7] : null,
  });
  const numbers = { ackShown: IRS + 1, edgeShown: IRS + 60000, sndShown: ISS + 1 };
  pair.pass({ bodies: [encodeOpen(index, open)] });
  const answer = { flags: TcpFlag.syn | TcpFlag.ack, seq: LOCAL_ISS, ack: IRS + 1 };
  const options = synOptions(port);
  const packet = fromServer({ destinationPort: port, ...answer, options }, family);
  pair.pass({
    app: [buildPacket(packet)],
    bodies: [encodeProgress(index, { cliAck: ISS + 1, cliTs: 1000, tsShown: 900, ...numbers })],
  });
  strictEqual(pair.first.field(index, "issDelta"), (ISS - LOCAL_ISS) >>> 0);
  const octets = new Uint8Array(5000).fill(7);
  pair.pass({ bodies: [joined(encodeData(index, IRS + 1, octets.subarray(0, 3000)))] });
}

/** Numbers near those that a connection would take, or far from them. */
function jittered(random: Random, moment: Moment): Moment {
  const move = (value: number) => {
    const by = pick(random, [
      0,
      0,
      0,
      1,
      -1,
      random.integer(4000) - 2000,
      0x80000000,
      random.seed(),
    ]);
    return (value + by) >>> 0;
  };
  const { client, server } = moment;
  return {
    ...moment,
    client: [move(client[0]), move(client[1])],
    server: [move(server[0]), move(server[1])],
  };
}

function storm(random: Random, { pair, client, moments }: Rig, passes: number): void {
  for (let i = 0; i < passes; i++) {
    const index = random.integer(VICTIMS);
    moments[index] = pair.moment(client, FIRST_PORT + index, moments[index]);
    const port = random.next() < 0.1 ? random.integer(65536) : FIRST_PORT + index;
    const { net, app } = packetsFor({ ...jittered(random, moments[index]), port });
    const some = (packets: Uint8Array[]) =>
      Array.from(
        { length: random.integer(pair.batch + 1) },
        () => damaged(random, pick(random, packets)),
      );
    pair.feed(some(net), some(app));
    if (random.next() < 0.3) pair.wait(pick(random, [1, 5, 60, 1100, 6000]));
  }
}

for (const family of FAMILIES) {
  Deno.test(`IPv${family}: no truncation of any packet does harm, in any role`, () => {
    for (const role of ROLES) {
      const { pair, moments } = rig(family, role);
      for (const which of ["net", "app"] as const) {
        const cuts = packetsFor(moments[0])[which].flatMap((packet) =>
          Array.from({ length: packet.length + 1 }, (_, length) => [
            packet.slice(0, length),
            shortened(packet, length),
          ]).flat()
        );
        for (let at = 0; at < cuts.length; at += pair.batch) {
          const batch = cuts.slice(at, at + pair.batch);
          pair.feed(which === "net" ? batch : [], which === "app" ? batch : []);
        }
      }
      pair.forget();
    }
  });
}

seededTest("no damaged packet does harm, in any role, with kept seeds and a fresh one", (fresh) => {
  const seeds = [...KEPT_SEEDS, ...Array.from({ length: rounds(2) }, () => fresh.seed())];
  for (const seed of seeds) {
    const random = new Random(seed);
    for (const role of ROLES) {
      const live = rig(pick(random, FAMILIES), role, pick(random, ["strict", "ack"]));
      storm(random, live, 40);
      live.pair.forget();
    }
  }
});

/** Damaged packets on every side of both replicas; what leaves for the damaged is dropped. */
function stormAt(random: Random, host: Host, peer: Host | null, live: ReadonlySet<number>): void {
  const numbers: [number, number] = [random.seed(), random.seed()];
  const port = FIRST_PORT + random.integer(6);
  const { net, app } = packetsFor({ family: 4, port, client: numbers, server: numbers });
  const some = (packets: Uint8Array[]) =>
    Array.from({ length: random.integer(12) }, () => damaged(random, pick(random, packets)))
      .filter((packet) => !namesAny(packet, live));
  if (peer !== null) host.driver.core.wasm.committed(peer.applied);
  host.driver.pass({ net: some(net), app: some(app) });
  const message = host.driver.takeBody();
  if (message !== null) peer?.inbox.push(message);
}

/** True when the numbers of a live connection stand anywhere in it: that one may be hurt by right. */
function namesAny(packet: Uint8Array, ports: ReadonlySet<number>): boolean {
  return packet.some((octet, at) => ports.has(octet << 8 | packet[at + 1]));
}

function echo(server: Endpoint): void {
  server.onOctets = (octets) => server.write(octets.map((octet) => octet ^ 0x5a));
  server.onEnd = () => server.end();
}

seededTest("live connections stay octet-exact through damaged packets and a crash", (random) => {
  for (let round = 0; round < rounds(4); round++) {
    const replicas = new Replicas({ program: echo, commit: pick(random, ["strict", "ack"]) });
    const ports = Array.from({ length: 4 }, (_, i) => 61003 + i);
    const live = new Set(ports);
    const requests = ports.map(() => randomOctets(random, 20000 + random.integer(20000)));
    const clients = ports.map((port) => replicas.connect(port));
    clients.forEach((client, i) => client.write(requests[i]));
    for (let step = 0, crash = 20 + random.integer(30); step < 60; step++) {
      const { primary, standby } = replicas;
      stormAt(random, primary, standby, live);
      if (standby !== null) stormAt(random, standby, primary, live);
      replicas.step();
      if (step === crash) replicas.crash();
    }
    clients.forEach((client) => client.end());
    replicas.run(() => clients.every((client) => client.ended && client.isDrained));
    for (const [i, { received }] of clients.entries()) {
      strictEqual(received.length, requests[i].length);
      ok(received.every((octet, at) => octet === (requests[i][at] ^ 0x5a)), `client ${ports[i]}`);
      const read = replicas.primary.servers.get(ports[i])?.received;
      ok(requests[i].every((octet, at) => octet === read?.[at]), `server of ${ports[i]}`);
    }
  }
});

/** A record about one of the victims, or nearly. */
function randomRecord(random: Random, moments: readonly Moment[]): Uint8Array {
  const index = random.next() < 0.9 ? random.integer(VICTIMS + 2) : random.seed();
  const generation = random.next() < 0.9 ? 1 : random.integer(65536);
  const { client } = jittered(random, pick(random, moments));
  const [seq, ack] = client;
  const length = pick(random, [0, 1, 100, 5000, 60000]);
  const clientAddress = randomOctets(random, 4);
  const octets = new Uint8Array(length).fill(random.integer(256));
  return pick(random, [
    () => encodeData(index, seq, octets, random.next() < 0.1, generation),
    () => encodeData(index, seq, octets, random.next() < 0.1, generation),
    () =>
      encodeProgress(index, {
        cliAck: ack,
        cliWnd: random.integer(65536),
        cliTs: random.seed(),
        tsShown: random.seed(),
        ackShown: seq,
        edgeShown: seq + random.integer(100000),
        sndShown: ack,
      }, generation),
    () =>
      encodeReport(index, seq, seq + random.seed(), {
        output: random.seed(),
        fin: random.next() < 0.3,
        generation,
      }),
    () => encodeFail(index, random.integer(256), generation),
    () => {
      // Most of them at the same place, so that the one that cuts fits the one that marks.
      const place: [number, number] = [
        IRS + 1 + pick(random, [0, 700, random.integer(4000)]),
        ISS + 1,
      ];
      const shown = random.next() < 0.7 ? ISS + 1 : ack;
      const at = place.map((number) => number >>> 0) as [number, number];
      const mark = encodeMark(index, at, random.next() < 0.8 ? 0n : EMPTY_DIGEST, generation);
      return pick(random, [mark, encodeCut(index, at, shown >>> 0, generation)]);
    },
    () => encodeClose(index, pick(random, [CloseHow.normal, CloseHow.dropped, 99]), generation),
    () =>
      encodeOpen(index, openOf({ client: clientAddress, irs: seq, iss: ack, scale: [20, 255] })),
    () => raw(damaged(random, pick(random, packetsFor(pick(random, moments)).net))),
  ])();
}

/** A RAW record. */
function raw(packet: Uint8Array): Uint8Array {
  const record = new Uint8Array((12 + packet.length + 3) & ~3);
  record[0] = 7;
  new DataView(record.buffer).setUint32(8, packet.length, true);
  record.set(packet, 12);
  return record;
}

/** A body with a few octets changed, or its end missing. */
function damagedBody(random: Random, body: Uint8Array): Uint8Array {
  const octets = body.slice();
  for (let i = random.integer(3); i > 0; i--) {
    octets[random.integer(octets.length)] = pick(random, [
      0,
      1,
      4,
      0x80,
      0xff,
      random.integer(256),
    ]);
  }
  return random.next() < 0.3 ? octets.slice(0, random.integer(octets.length)) : octets;
}

seededTest("no message body does harm: random, damaged or cut short", (fresh) => {
  for (const seed of [...KEPT_SEEDS, ...Array.from({ length: rounds(3) }, () => fresh.seed())]) {
    const random = new Random(seed);
    for (const role of ROLES) {
      const { pair, client, moments } = rig(4, role);
      for (let i = 0; i < 30; i++) {
        const index = random.integer(VICTIMS);
        moments[index] = pair.moment(client, FIRST_PORT + index, moments[index]);
        const records = Array.from(
          { length: 1 + random.integer(4) },
          () => randomRecord(random, moments),
        );
        const body = random.next() < 0.1
          ? randomOctets(random, random.integer(200))
          : damagedBody(random, joined(...records));
        pair.each(({ core: { wasm }, nowMs }) => wasm.begin(nowMs));
        pair.apply(body);
        pair.feed([], packetsFor(moments[index]).app.slice(0, 5));
        if (random.next() < 0.2) pair.wait(pick(random, [5, 60, 6000]));
      }
      pair.forget();
    }
  }
});

Deno.test("every truncation of a body is refused where it is cut, and never read beyond", () => {
  const records = [
    encodeOpen(3, openOf({ clientPort: 30000 })),
    encodeData(0, IRS + 3001, new Uint8Array(10).fill(1)),
    encodeProgress(0, {
      cliAck: ISS + 1,
      ackShown: IRS + 1,
      edgeShown: IRS + 9,
      sndShown: ISS + 1,
    }),
    encodeReport(0, IRS + 1, IRS + 100),
    encodeFail(9, 1),
    raw(packetsFor({ family: 4, port: 1, client: [0, 0], server: [0, 0] }).net[0]),
    encodeMark(0, [IRS + 2, ISS + 1], 0n),
    encodeCut(0, [IRS + 2, ISS + 1], ISS + 1),
    encodeClose(1, CloseHow.dropped),
  ];
  for (const role of ROLES) {
    const { pair } = rig(4, role);
    let start = 0;
    for (const record of records) {
      const body = joined(...records);
      for (let length = start + 1; length < start + record.length - 3; length++) {
        strictEqual(pair.apply(body.slice(0, length)), start + 1, `${role}: ${length} octets`);
      }
      start += record.length;
      strictEqual(pair.apply(body.slice(0, start)), 0);
    }
    pair.forget();
  }
});

Deno.test("a standby's memory is not taken by a lie about what the client has", () => {
  const { pair } = rig(4, "standby");
  const reply = (seq: number, length: number) =>
    buildPacket(fromServer({
      destinationPort: FIRST_PORT + 2,
      seq,
      ack: IRS + 1,
      options: stampsOf(FIRST_PORT + 2),
      payload: new Uint8Array(length),
    }));
  pair.pass({ app: [reply(LOCAL_ISS + 1, 1000)] });
  const before = pair.first.core.wasm.blockOctetsFree();
  const numbers = { ackShown: IRS + 1, edgeShown: IRS + 60000 };
  const cliAck = (ISS + 1 + (1 << 30)) >>> 0;
  pair.pass({
    bodies: [encodeProgress(2, { cliAck, sndShown: cliAck, tsShown: 900, ...numbers })],
    app: [reply(LOCAL_ISS + 1 + (1 << 30) - 500, 1000)],
  });
  ok(pair.first.core.wasm.blockOctetsFree() >= before - 8192);
  pair.forget();
});

Deno.test("refusals for a flood of handed-over SYNs end before the core's own segments do", () => {
  const driver = new Driver({ refuseUnprotectable: true });
  const { wasm } = driver.core;
  wasm.promote(0);
  wasm.standbyJoined(1 << 20);
  const signed = Uint8Array.from([19, 18, ...new Array(16).fill(0), 1, 1]);
  const syn = raw(
    buildPacket(fromClient({ sourcePort: 41000, flags: TcpFlag.syn, options: signed })),
  );
  const body = new Uint8Array(Math.floor(wasm.bodySize() / syn.length) * syn.length);
  for (let at = 0; at < body.length; at += syn.length) body.set(syn, at);
  // What waits in the hold ring, which lies behind the core's own segments, must stay as it is.
  driver.pass({
    net: [buildPacket(fromClient({ flags: TcpFlag.syn, seq: 5 }))],
  });
  const synAck = buildPacket(fromServer({ flags: TcpFlag.syn | TcpFlag.ack, seq: 9, ack: 6 }));
  strictEqual(driver.pass({ app: [synAck] }).length, 0);
  strictEqual(wasm.heldCount(), 1);
  wasm.begin(driver.nowMs);
  for (let i = 0; i < 3; i++) strictEqual(driver.apply(body), 0);
  wasm.committed(driver.takeBody()?.seq ?? 0);
  const outputs = driver.outputs(wasm.run(0, 0));
  ok(outputs.length <= wasm.outMax());
  const released = on("net", outputs).filter((packet) => clientPortOf(packet) === 40000)
    .map(parsePacket);
  ok(released.some(({ flags }) => flags === (TcpFlag.syn | TcpFlag.ack)), "what was held is lost");
});
