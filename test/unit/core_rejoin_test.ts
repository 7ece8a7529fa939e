/**
 * core_rejoin_test.ts - hot mode: a standby that comes later is brought to where live connections are
 *
 * The claims are those of core_takeover_test.ts, for hosts that die one after the other: each new one is
 * told of the connections that live, its server is played them, and it is the next to take over.
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import {
  CLIENT_V4,
  Driver,
  encodeOpen,
  fromClient,
  fromServer,
  on,
  openOf,
  PORT,
  Reason,
} from "./core_driver.ts";
import type { Endpoint } from "./endpoint.ts";
import { Replicas } from "./replicas.ts";
import { pick, rounds, seededTest } from "./seeded.ts";
import {
  allDone,
  check,
  checkEmpty,
  checkOctets,
  countLost,
  isDone,
  PACES,
  randomOptions,
  runFor,
  talk,
} from "./talks.ts";
import { buildOptions, buildPacket, findOption, parsePacket, TcpFlag } from "./twin.ts";

/** More than any of the clients says. */
const ALL = 1 << 20;

/** Clients' ports of connections that both servers have ended: ServerFin and PeerFin of connection.ts. */
function endedPorts(driver: Driver): Set<number> {
  const ports = new Set<number>();
  for (let i = 0; i < driver.core.wasm.highWater(); i++) {
    if (driver.core.wasm.recordAt(i) === 0) continue;
    const both = 512 | 1048576;
    if ((driver.field(i, "flags") & both) === both) ports.add(driver.field(i, "ports") & 0xffff);
  }
  return ports;
}

seededTest(
  "host after host dies, and each new one is brought to where the connections are",
  (random) => {
    for (let round = 0; round < rounds(30); round++) {
      const options = { tellOctets: pick(random, PACES), mayReset: "late" } as const;
      const replicas = new Replicas({ ...randomOptions(random), ...options, keep: ALL });
      const talks = Array.from({ length: 5 }, (_, i) => talk(random, replicas, 10000 + i));
      for (let deaths = 2 + random.integer(3); deaths > 0; deaths--) {
        runFor(replicas, talks, random.integer(80));
        if (random.next() < 0.3) replicas.switchOver();
        else replicas.crash(random.integer(3));
        runFor(replicas, talks, random.integer(20));
        if (replicas.standby === null) replicas.join();
        talks.push(talk(random, replicas, 10000 + talks.length));
        replicas.run(() => replicas.isWhole);
      }
      replicas.run(() => talks.every(isDone));
      for (const { client, port, expected } of talks) {
        checkOctets(client.received, expected, `client ${port}`);
      }
      checkEmpty(replicas);
    }
  },
);

seededTest(
  "what a standby was brought in part only is lost with the primary, and not continued",
  (random) => {
    let lost = 0;
    for (let round = 0; round < rounds(40); round++) {
      const options = { ...randomOptions(random), keep: ALL, tellOctets: pick(random, PACES) };
      const replicas = new Replicas({ ...options, alone: true, mayReset: true });
      const talks = Array.from({ length: 5 }, (_, i) => talk(random, replicas, 10000 + i));
      runFor(replicas, talks, random.integer(100));
      replicas.join();
      for (let i = random.integer(20); i > 0; i--) replicas.step();
      const whole = replicas.keptPorts();
      replicas.crash(random.integer(3));
      lost += countLost(replicas, talks, whole);
    }
    ok(lost > 0, "nobody was lost");
  },
);

seededTest("of whom more was said than is kept stays unprotected, and says so", (random) => {
  for (let round = 0; round < rounds(10); round++) {
    const keep = 1 + random.integer(20000);
    const replicas = new Replicas({
      ...randomOptions(random),
      keep,
      alone: true,
      mayReset: "late",
    });
    const free = replicas.primary.driver.core.wasm.blockOctetsFree();
    const talks = Array.from({ length: 6 }, (_, i) => talk(random, replicas, 10000 + i));
    runFor(replicas, talks, 20 + random.integer(100));
    const { driver } = replicas.primary;
    const isOpen = (i: number) =>
      driver.core.wasm.recordAt(i) !== 0 && driver.field(i, "phase") === 3;
    // One whose handshake is late begins with the standby there.
    const older = Array.from({ length: driver.core.wasm.highWater() }, (_, i) => i).filter(isOpen);
    replicas.join();
    replicas.run(() => replicas.isWhole);
    for (const i of older.filter(isOpen)) {
      const said = (driver.field(i, "rcvNxt") - driver.field(i, "irs") - 1) >>> 0;
      const reason = driver.field(i, "reason");
      if (said > keep) strictEqual(reason, Reason.notKept, `${said} octets of ${keep}`);
    }
    replicas.run(() => allDone(replicas, talks));
    check(replicas, talks);
    checkEmpty(replicas);
    strictEqual(driver.core.wasm.blockOctetsFree(), free);
  }
});

Deno.test("with commit ack, a FIN that a dead primary's server has answered keeps no standby from its place", () => {
  const answer = Uint8Array.from({ length: 3000 }, (_, i) => i >>> 3);
  const program = (server: Endpoint) => {
    server.onEnd = () => server.write(answer);
  };
  const replicas = new Replicas({ program, commit: "ack", keep: ALL });
  const client = replicas.connect(10000);
  replicas.run(() => client.state === "open" && replicas.keptPorts().length === 1);
  replicas.standby!.lag = Infinity;
  client.write(new Uint8Array(1000).fill(1));
  client.end();
  replicas.run(() => client.received.length === answer.length);
  for (let i = 0; i < 3; i++) replicas.step();
  strictEqual(client.isDrained, false, "what the standby had not heard was acknowledged");
  replicas.crash(Infinity);
  replicas.run(() => client.isDrained);
  replicas.join();
  replicas.run(() => replicas.isWhole && replicas.keptPorts().length === 1);
  for (const { servers } of [replicas.primary, replicas.standby!]) servers.get(10000)!.end();
  replicas.run(() => client.ended);
  checkOctets(client.received, answer, "client");
  checkEmpty(replicas);
});

Deno.test("a socket that a former server has left at the client's numbers gives way", () => {
  const driver = new Driver();
  driver.core.wasm.setRole(1);
  const open = openOf({ client: CLIENT_V4, clientPort: 10000, irs: 1000, iss: 5000 });
  const [syn] = on("app", driver.pass({ bodies: [encodeOpen(0, open)] }));
  strictEqual(parsePacket(syn).flags, TcpFlag.syn);
  // Its window probe stands beside our SYN, and is as good as its challenge ACK.
  const stale = fromServer({
    destinationPort: 10000,
    seq: 77,
    ack: 888,
    flags: TcpFlag.ack,
    window: 9,
  });
  const answers = on("app", driver.pass({ app: [buildPacket(stale)] })).map(parsePacket);
  deepStrictEqual(answers.map(({ flags, seq }) => [flags, seq]), [[TcpFlag.rst, 888]]);
  driver.nowMs += 60;
  const again = on("app", driver.drain()).map(parsePacket);
  deepStrictEqual(again.map(({ flags, seq }) => [flags, seq]), [[TcpFlag.syn, 1000]]);
});

Deno.test("a socket that was left behind does not answer the SYN of a new client", () => {
  for (const family of [4, 6] as const) {
    const driver = new Driver({ family });
    driver.takeOver();
    const options = buildOptions({ mss: 1460, sackPermitted: true, stamps: [7, 0], scale: 9 });
    const syn = {
      sourcePort: 10000,
      destinationPort: PORT,
      seq: 1000,
      flags: TcpFlag.syn,
      window: 64000,
    };
    const net = [buildPacket(fromClient({ ...syn, options }, family))];
    const [first] = on("app", driver.pass({ net }));
    const left = { destinationPort: 10000, seq: 77, ack: 888, flags: TcpFlag.ack, window: 9 };
    const app = [buildPacket(fromServer(left, family))];
    const outputs = driver.pass({ app });
    deepStrictEqual(on("net", outputs), []);
    const [reset, again] = on("app", outputs);
    deepStrictEqual([parsePacket(reset).flags, parsePacket(reset).seq], [TcpFlag.rst, 888]);
    deepStrictEqual(saidBySyn(again), saidBySyn(first));
    // If its kernel does not believe the RST, the client has to see to it.
    strictEqual(on("net", driver.pass({ app })).length, 1);
  }
});

/** What a SYN offers, wherever its options stand. */
function saidBySyn(bytes: Uint8Array): unknown {
  const { seq, flags, window, options } = parsePacket(bytes);
  const values = [2, 3, 4, 8].map((kind) => {
    const { at, length } = findOption(options, kind)!;
    return options.slice(at, at + length - 2);
  });
  return { seq, flags, window, values };
}

seededTest("a standby's server dies, and the next one is brought its connections", (random) => {
  for (let round = 0; round < rounds(20); round++) {
    const options = { ...randomOptions(random), keep: ALL, tellOctets: pick(random, PACES) };
    const replicas = new Replicas({ ...options, mayReset: "late" });
    const talks = Array.from({ length: 5 }, (_, i) => talk(random, replicas, 10000 + i));
    for (let deaths = 1 + random.integer(3); deaths > 0; deaths--) {
      runFor(replicas, talks, random.integer(80));
      const host = replicas.standby!;
      const { wasm } = host.driver.core;
      // Its kernel keeps what both servers have ended.
      const ended = endedPorts(host.driver);
      for (const port of host.servers.keys()) if (!ended.has(port)) host.servers.delete(port);
      wasm.begin(replicas.nowMs >>> 0);
      strictEqual(wasm.forsake(), 0);
      host.driver.outputs(wasm.settle());
      for (let i = 0; i < 4; i++) replicas.step();
      replicas.primary.driver.core.wasm.bring();
      replicas.run(() => replicas.isWhole);
    }
    replicas.crash(random.integer(3));
    replicas.run(() => talks.every(isDone));
    for (const { client, port, expected } of talks) {
      checkOctets(client.received, expected, `client ${port}`);
    }
    checkEmpty(replicas);
  }
});

Deno.test("a server that does not come where the client is keeps its connection unprotected", () => {
  let late = false;
  const replicas = new Replicas({
    keep: ALL,
    alone: true,
    program: (server) => {
      // Whoever is asked late says nothing.
      server.onOctets = (octets) => late ? undefined : server.write(octets);
    },
  });
  const client = replicas.connect(10000);
  client.write(new Uint8Array(500));
  replicas.run(() => client.received.length === 500);
  late = true;
  for (const host of [replicas.primary]) host.driver.core.wasm.setLag(1 << 20, 2000);
  replicas.join();
  replicas.standby?.driver.core.wasm.setLag(1 << 20, 2000);
  let steps = 50;
  replicas.run(() => steps-- <= 0);
  strictEqual(replicas.primary.driver.field(0, "reason"), Reason.joining);
  for (let i = 0; i < 120; i++) replicas.wait(100);
  strictEqual(replicas.primary.driver.field(0, "reason"), Reason.legStalled);
  deepStrictEqual(replicas.primary.driver.takeFindings(), []);
  deepStrictEqual(replicas.standby?.driver.takeFindings(), []);
  late = false;
  client.write(new Uint8Array(100));
  replicas.run(() => client.received.length === 600);
});

Deno.test("a server that repeats itself otherwise keeps its connection unprotected, and is no fault", () => {
  let served = 0;
  const replicas = new Replicas({
    keep: ALL,
    alone: true,
    program: (server) => {
      const number = served++;
      server.onOctets = (octets) => server.write(octets.map((octet) => octet + number));
    },
  });
  const client = replicas.connect(10000);
  client.write(new Uint8Array(500));
  replicas.run(() => client.received.length === 500);
  replicas.join();
  replicas.run(() => replicas.isWhole);
  strictEqual(replicas.primary.driver.field(0, "reason"), Reason.replayDiffers);
  deepStrictEqual(replicas.primary.driver.takeFindings(), []);
  strictEqual(replicas.standby?.driver.counter("diverged"), 0);
  client.write(new Uint8Array(100));
  replicas.run(() => client.received.length === 600);
});
