/**
 * core_recovery_test.ts - log mode: who listens, and who waits until somebody does
 *
 * Claims
 *   a question that is repeated is the same SYN; another question comes from another port
 *   only the last question's answer counts, and each SYN-ACK is answered with RST
 *   while connections have no server no SYN reaches one, and what an old one says to it is left over
 *   what died with such a server ends no connection when the next one lives
 *   more SYNs than a pass has room for all go to the next server
 *   what a server hears begins with the stream's first octet until its kernel has acknowledged one
 */
import { deepStrictEqual, strictEqual } from "node:assert/strict";
import { CLIENT_V4, CLIENT_V6, Driver, on, PORT, SERVICE_V4, SERVICE_V6 } from "./core_driver.ts";
import { buildPacket, type Packet, packetOf, parsePacket, TcpFlag } from "./twin.ts";

const CLIENT_PORT = 40000;
const CLIENT_ISS = 7000;
const SERVER_ISS = 9000;
const YES = 1;
const NO = 2;

/** A primary in log mode whose server listens. */
function serving(family: 4 | 6 = 4, capacity = 64): Driver {
  const driver = new Driver({ family, capacity });
  driver.core.wasm.setLogMode(1);
  driver.takeOver();
  effect(driver, ({ replay }) => replay());
  return driver;
}

/** Calls the core between two passes, and returns what it wants to be said. */
function effect(driver: Driver, call: (wasm: Driver["core"]["wasm"]) => void): Uint8Array[] {
  const { wasm } = driver.core;
  wasm.begin(driver.nowMs >>> 0);
  call(wasm);
  const outputs = driver.outputs(wasm.settle());
  deepStrictEqual(on("net", outputs), []);
  return on("app", outputs);
}

/** What a kernel answers to a SYN. */
function answer(syn: Packet, flags: number, seq = 0): Uint8Array {
  return buildPacket(packetOf({
    source: syn.destination,
    destination: syn.source,
    sourcePort: syn.destinationPort,
    destinationPort: syn.sourcePort,
    seq,
    ack: (syn.seq + 1) >>> 0,
    flags: flags | TcpFlag.ack,
  }));
}

function fromClient(fields: Partial<Packet>): Uint8Array {
  return buildPacket(packetOf({
    source: CLIENT_V4,
    destination: SERVICE_V4,
    sourcePort: CLIENT_PORT,
    destinationPort: PORT,
    seq: CLIENT_ISS,
    ...fields,
  }));
}

const SYN = fromClient({ flags: TcpFlag.syn });

for (const family of [4, 6] as const) {
  const name = `probe() repeats a question as it was, the next has another port (IPv${family})`;
  Deno.test(name, () => {
    const driver = serving(family);
    const ask = (again: boolean) => {
      driver.nowMs += 10;
      const [packet, ...more] = effect(driver, ({ probe }) => probe(PORT, again ? 1 : 0));
      strictEqual(more.length, 0);
      return parsePacket(packet);
    };
    const first = ask(false);
    strictEqual(first.flags, TcpFlag.syn);
    deepStrictEqual(first.destination, family === 4 ? SERVICE_V4 : SERVICE_V6);
    strictEqual([CLIENT_V4, CLIENT_V6].some((client) => `${client}` === `${first.source}`), false);
    const again = ask(true);
    deepStrictEqual([again.sourcePort, again.seq], [first.sourcePort, first.seq]);
    strictEqual(ask(false).sourcePort === first.sourcePort, false);
  });
}

Deno.test("probeAnswer() is what was answered to the last question, and stays", () => {
  const driver = serving();
  const { wasm } = driver.core;
  const ask = () => parsePacket(effect(driver, ({ probe }) => probe(PORT, 0))[0]);
  const [old, last] = [ask(), ask()];
  // A kernel that was asked when nobody listened yet, and is heard late.
  driver.pass({ app: [answer(old, TcpFlag.rst)] });
  strictEqual(wasm.probeAnswer(), 0);
  const resets = on("app", driver.pass({ app: [answer(old, TcpFlag.syn, 5)] })).map(parsePacket);
  deepStrictEqual(resets.map(({ flags, sourcePort }) => [flags, sourcePort]), [
    [TcpFlag.rst, old.sourcePort],
  ]);
  strictEqual(wasm.probeAnswer(), 0);
  driver.pass({ app: [answer(last, TcpFlag.syn, 5)] });
  strictEqual(wasm.probeAnswer(), YES);
  driver.pass({ app: [answer(last, TcpFlag.rst)] });
  strictEqual(wasm.probeAnswer(), YES);
  const next = ask();
  strictEqual(wasm.probeAnswer(), 0);
  driver.pass({ app: [answer(next, TcpFlag.rst)] });
  strictEqual(wasm.probeAnswer(), NO);
});

Deno.test("a SYN waits while there is no server, and goes to the next one", () => {
  const driver = serving();
  effect(driver, ({ detach }) => detach());
  deepStrictEqual(driver.pass({ net: [SYN] }), []);
  deepStrictEqual(driver.pass({ net: [SYN] }), [], "the client repeats it");
  const said = effect(driver, ({ replay }) => replay()).map(parsePacket);
  deepStrictEqual(said.map(({ flags, seq }) => [flags, seq]), [[TcpFlag.syn, CLIENT_ISS]]);
  const [synAck] = on("net", driver.pass({ app: [answer(said[0], TcpFlag.syn, SERVER_ISS)] }));
  strictEqual(parsePacket(synAck).flags, TcpFlag.syn | TcpFlag.ack);
});

Deno.test("SYNs that have waited and do not fit into one pass go in the next ones", () => {
  const driver = serving(4, 5000);
  effect(driver, ({ detach }) => detach());
  const ports = Array.from({ length: 5000 }, (_, i) => 20_000 + i);
  for (const sourcePort of ports) {
    deepStrictEqual(driver.pass({ net: [fromClient({ sourcePort, flags: TcpFlag.syn })] }), []);
  }
  const first = effect(driver, ({ replay }) => replay());
  const all = [...first, ...on("app", driver.drain())].map(parsePacket);
  strictEqual(first.length < ports.length, true, `${first.length} in one pass`);
  deepStrictEqual(all.map(({ flags, sourcePort }) => [flags, sourcePort]), [
    ...ports.map((port) => [TcpFlag.syn, port]),
  ]);
});

Deno.test("what a server accepts while connections leave it is nobody's, and its end nobody's end", () => {
  const driver = serving();
  const { wasm } = driver.core;
  const [syn] = on("app", driver.pass({ net: [SYN] })).map(parsePacket);
  effect(driver, ({ detach }) => detach());
  // Its SYN-ACK was on the way; a worker that has the listener open still could say the same.
  const late = on("app", driver.pass({ app: [answer(syn, TcpFlag.syn, SERVER_ISS)] }));
  deepStrictEqual(late.map((packet) => parsePacket(packet).flags), [TcpFlag.rst]);
  deepStrictEqual(driver.pass({ app: [answer(syn, TcpFlag.rst, SERVER_ISS + 1)] }), []);
  const [again] = effect(driver, ({ replay }) => replay()).map(parsePacket);
  strictEqual(wasm.endsHeld(), 0);
  const outputs = driver.pass({ app: [answer(again, TcpFlag.syn, SERVER_ISS + 77)] });
  const [synAck] = on("net", outputs).map(parsePacket);
  strictEqual(synAck.seq, SERVER_ISS + 77);
});

const REQUEST = new TextEncoder().encode("GET");
const ANSWER = Uint8Array.from({ length: 1000 }, (_, i) => i * 7);

/** A connection over which an answer was read, on a server whose numbers begin at SERVER_ISS. */
function answered(): Driver {
  const driver = serving();
  const [syn] = on("app", driver.pass({ net: [SYN] })).map(parsePacket);
  driver.pass({ app: [answer(syn, TcpFlag.syn, SERVER_ISS)] });
  driver.pass({
    net: [fromClient({ seq: CLIENT_ISS + 1, ack: SERVER_ISS + 1, payload: REQUEST })],
  });
  driver.pass({ app: [fromServer({ payload: ANSWER })] });
  driver.pass({ net: [fromClient({ seq: CLIENT_ISS + 4, ack: SERVER_ISS + 1001 })] });
  return driver;
}

/** What a server has said, by default the first octets after the request. */
function fromServer(fields: Partial<Packet>): Uint8Array {
  return buildPacket(packetOf({
    source: SERVICE_V4,
    destination: CLIENT_V4,
    sourcePort: PORT,
    destinationPort: CLIENT_PORT,
    seq: SERVER_ISS + 1,
    ack: CLIENT_ISS + 4,
    ...fields,
  }));
}

/** The server is left; what the client had not been told of its octets it is told. */
function leave(driver: Driver): void {
  const { wasm } = driver.core;
  wasm.begin(driver.nowMs);
  wasm.detach();
  wasm.settle();
  driver.drain();
}

/** The next server, whose numbers begin at 50000, is played to; what it was said after the handshake. */
function replayed(driver: Driver): Packet[] {
  const [syn] = effect(driver, ({ replay }) => replay()).map(parsePacket);
  const outputs = driver.pass({ app: [answer(syn, TcpFlag.syn, NEXT_ISS)] });
  return on("app", outputs).map(parsePacket);
}

const NEXT_ISS = 50_000;

function hasFin({ flags }: Packet): boolean {
  return (flags & TcpFlag.fin) !== 0;
}

Deno.test("a client's FIN is played when the server has written what the client had when it said it", () => {
  const driver = answered();
  const fin = { seq: CLIENT_ISS + 4, ack: SERVER_ISS + 1001, flags: TcpFlag.fin | TcpFlag.ack };
  const [direct] = on("app", driver.pass({ net: [fromClient(fin)] })).map(parsePacket);
  strictEqual(hasFin(direct), true);
  leave(driver);
  const said = replayed(driver);
  deepStrictEqual(said.flatMap(({ payload }) => [...payload]), [...REQUEST]);
  const hears = (fields: Partial<Packet>) => {
    const outputs = driver.pass({ app: [fromServer({ seq: NEXT_ISS + 1, ...fields })] });
    return on("app", outputs).map(parsePacket).some(hasFin);
  };
  strictEqual(said.some(hasFin), false);
  strictEqual(hears({}), false, "the request was read");
  strictEqual(hears({ payload: ANSWER.subarray(0, 999) }), false);
  strictEqual(hears({ seq: NEXT_ISS + 1000, payload: ANSWER.subarray(999) }), true);
});

Deno.test("a client that has both FINs is told nothing by the next server's replay", () => {
  const driver = answered();
  const flags = TcpFlag.fin | TcpFlag.ack;
  driver.pass({ app: [fromServer({ seq: SERVER_ISS + 1001, flags })] });
  // Its server lives and meant it.
  const [probe] = effect(driver, (wasm) => wasm.probe(PORT, 0)).map(parsePacket);
  driver.pass({ app: [answer(probe, TcpFlag.syn, 1)] });
  driver.core.wasm.begin(driver.nowMs);
  driver.core.wasm.confirmEnds();
  const told = on("net", driver.outputs(driver.core.wasm.settle())).map(parsePacket);
  deepStrictEqual(told.map(hasFin), [true]);
  driver.pass({ net: [fromClient({ seq: CLIENT_ISS + 4, ack: SERVER_ISS + 1002 })] });
  leave(driver);
  // Now it ends too, is answered, and knows nothing of the connection any more.
  const [ack] = on(
    "net",
    driver.pass({
      net: [fromClient({ seq: CLIENT_ISS + 4, ack: SERVER_ISS + 1002, flags })],
    }),
  ).map(parsePacket);
  strictEqual(ack.ack, CLIENT_ISS + 5);
  replayed(driver);
  const later = [{ payload: ANSWER }, { seq: NEXT_ISS + 1001, ack: CLIENT_ISS + 5, flags }];
  for (const fields of later) {
    const outputs = driver.pass({ app: [fromServer({ seq: NEXT_ISS + 1, ...fields })] });
    deepStrictEqual(on("net", [...outputs, ...driver.drain()]), []);
  }
  strictEqual(driver.core.wasm.behind(), 0);
});

Deno.test("until a kernel has acknowledged an octet, all that it hears begins with the first", () => {
  const driver = answered();
  leave(driver);
  // It has said a SYN cookie and forgotten it, and has no room for a connection yet.
  const heard = replayed(driver);
  const flags = TcpFlag.fin | TcpFlag.ack;
  const more = [
    fromClient({ seq: CLIENT_ISS + 4, ack: SERVER_ISS + 1001, payload: REQUEST }),
    fromClient({ seq: CLIENT_ISS + 7, ack: SERVER_ISS + 1001, window: 999 }),
    fromClient({ seq: CLIENT_ISS + 7, ack: SERVER_ISS + 1001, flags }),
  ];
  for (let round = 0; round < 20; round++) {
    const outputs = [...driver.pass({ net: more.splice(0, 1) }), ...driver.drain()];
    heard.push(...on("app", outputs).map(parsePacket));
    driver.nowMs += 10;
  }
  strictEqual(heard.length > 2, true, "it is repeated");
  deepStrictEqual([...new Set(heard.map(({ seq }) => seq))], [CLIENT_ISS + 1]);
  deepStrictEqual([...heard.at(-1)!.payload], [...REQUEST, ...REQUEST]);
  // It has room now, and the rest follows.
  const answers = [fromServer({ seq: NEXT_ISS + 1, ack: CLIENT_ISS + 7, payload: ANSWER })];
  const [fin] = on("app", driver.pass({ app: answers })).map(parsePacket);
  deepStrictEqual([fin.flags, fin.seq], [flags, CLIENT_ISS + 7]);
});
