/**
 * core_replay_test.ts - log mode: servers die, others are played what their clients have said
 *
 * The claims are those of core_takeover_test.ts, for one host whose servers die any number of times,
 * also while they are played the log, and for two of which the second has no server before it speaks.
 * While nobody serves it a client is held: answered, and told of no end.
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import type { Random } from "../net/random.ts";
import {
  CLIENT_V4,
  decodeRecords,
  Driver,
  encodeData,
  encodeOpen,
  encodeProgress,
  isAfter,
  joined,
  LOG_LIMIT,
  openOf,
  Phase,
  Reason,
  RecordType,
} from "./core_driver.ts";
import { DiskHost, PowerCut } from "./disk_host.ts";
import type { Endpoint } from "./endpoint.ts";
import { Replicas, type ReplicasOptions } from "./replicas.ts";
import { pick, randomOctets, rounds, seededTest } from "./seeded.ts";
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
  type Talk,
  talk,
} from "./talks.ts";

/** As in core/limits.ts. */
const READ_LINGER_MS = 120_000;
const FIN_WAIT_MS = 2000;

/** Log mode with room for everything. */
function logOptions(random: Random): ReplicasOptions {
  return { ...randomOptions(random), log: { holds: random.next() < 0.5 }, logLimit: 1 << 18 };
}

/** The clients that need a server still, when nothing is on the wire any more. */
function inNeed(replicas: Replicas, talks: Talk[], random: Random): Talk[] {
  for (let i = 6 + random.integer(40); i > 0; i--) replicas.step();
  return talks.filter(({ client, expected }) => client.received.length < expected.length);
}

/** As `finish()`, when the power may still fail. */
function finishAlive(replicas: Replicas, talks: Talk[], needed: Talk[], random: Random): void {
  try {
    finish(replicas, talks, needed);
  } catch (error) {
    if (!(error instanceof PowerCut)) throw error;
    replicas.startAgain("power", { awayMs: 100, calls: Infinity });
    const still = inNeed(replicas, talks, random);
    replicas.startServers();
    finish(replicas, talks, still);
  }
}

/** Every client has read what it must, and the servers of those in need have read all of them. */
function finish(replicas: Replicas, talks: Talk[], needed: Talk[]): void {
  const drained = ({ port }: Talk) => replicas.primary.servers.get(port)?.isDrained === true;
  replicas.run(() => talks.every(isDone) && needed.every(drained));
  for (const { client, port, expected } of talks) {
    checkOctets(client.received, expected, `client ${port}`);
  }
  check(replicas, needed);
}

seededTest("log mode: servers that die and come back are not missed", (random) => {
  for (let round = 0; round < rounds(40); round++) {
    const replicas = new Replicas({ ...logOptions(random), alone: true });
    const free = replicas.primary.driver.core.wasm.blockOctetsFree();
    const talks = Array.from({ length: 6 }, (_, i) => talk(random, replicas, 10000 + i));
    let needed = talks;
    for (let deaths = 1 + random.integer(4); deaths > 0; deaths--) {
      runFor(replicas, talks, random.integer(120));
      replicas.killServers(() => random.next() < 0.3);
      needed = inNeed(replicas, talks, random);
      replicas.startServers();
    }
    finish(replicas, talks, needed);
    checkEmpty(replicas);
    strictEqual(replicas.primary.driver.core.wasm.blockOctetsFree(), free);
  }
});

seededTest(
  "log mode: a standby without a server takes over, and its server is brought up",
  (random) => {
    for (let round = 0; round < rounds(30); round++) {
      const replicas = new Replicas(logOptions(random));
      const talks = Array.from({ length: 6 }, (_, i) => talk(random, replicas, 10000 + i));
      runFor(replicas, talks, random.integer(150));
      const planned = random.next() < 0.5;
      if (planned) replicas.switchOver();
      else replicas.crash(random.integer(3));
      const needed = inNeed(replicas, talks, random);
      replicas.startServers();
      finish(replicas, talks, needed);
      checkEmpty(replicas);
    }
  },
);

seededTest(
  "log mode: host after host dies, and each new one is told of the connections that live",
  (random) => {
    for (let round = 0; round < rounds(30); round++) {
      // A connection that is over is told to nobody who comes later.
      const options = { tellOctets: pick(random, PACES), mayReset: "late" } as const;
      const replicas = new Replicas({ ...logOptions(random), ...options });
      const talks = Array.from({ length: 5 }, (_, i) => talk(random, replicas, 10000 + i));
      let needed = talks;
      for (let deaths = 2 + random.integer(3); deaths > 0; deaths--) {
        runFor(replicas, talks, random.integer(80));
        if (random.next() < 0.3) replicas.switchOver();
        else replicas.crash(random.integer(3));
        needed = inNeed(replicas, talks, random);
        // The next host may come before there is a server.
        const isEarly = random.next() < 0.5;
        if (isEarly && replicas.standby === null) replicas.join();
        replicas.startServers();
        if (replicas.standby === null) {
          runFor(replicas, talks, random.integer(20));
          replicas.join();
        }
        talks.push(talk(random, replicas, 10000 + talks.length));
        replicas.run(() => replicas.isWhole);
        needed = talks.filter(({ client, expected }) => client.received.length < expected.length);
      }
      finish(replicas, talks, needed);
      checkEmpty(replicas);
    }
  },
);

seededTest(
  "log mode: what a standby has been told in part only is lost with the primary, and not continued",
  (random) => {
    let lost = 0;
    for (let round = 0; round < rounds(40); round++) {
      const options = { ...logOptions(random), tellOctets: pick(random, PACES) };
      const replicas = new Replicas({ ...options, alone: true, mayReset: true });
      const talks = Array.from({ length: 5 }, (_, i) => talk(random, replicas, 10000 + i));
      runFor(replicas, talks, random.integer(100));
      replicas.join();
      for (let i = random.integer(20); i > 0; i--) replicas.step();
      const whole = replicas.keptPorts();
      replicas.crash(random.integer(3));
      for (let i = 0; i < 6; i++) replicas.step();
      replicas.startServers();
      lost += countLost(replicas, talks, whole);
    }
    ok(lost > 0, "nobody was lost");
  },
);

seededTest(
  "log on disk: whatever clients were told survives loss of power at any write",
  (random) => {
    for (let round = 0; round < rounds(20); round++) {
      const logLimit = 1 << 18;
      const isLazy = random.next();
      const disk = new DiskHost({
        random,
        segmentOctets: pick(random, [3000, 30_000, 1 << 20]),
        // Without end: as soon as a segment is full, all that live are told again.
        slackOctets: pick(random, [-Infinity, 10_000]),
        logLimit,
        isBusy: () => random.next() < isLazy * 0.9,
      });
      const options = { ...logOptions(random), commit: "strict" as const, logLimit };
      const replicas = new Replicas({ ...options, alone: true, disk });
      const talks = Array.from({ length: 4 }, (_, i) => talk(random, replicas, 10000 + i));
      let needed = talks;
      for (let deaths = 1 + random.integer(3); deaths > 0; deaths--) {
        let how: "killed" | "power" = pick(random, ["killed", "power"]);
        try {
          runFor(replicas, talks, random.integer(120));
        } catch (error) {
          if (!(error instanceof PowerCut)) throw error;
          how = "power";
        }
        // The power fails again in the midst of a write, or not at all.
        const calls = random.next() < 0.5 ? Infinity : 1 + random.integer(40);
        replicas.startAgain(how, { awayMs: pick(random, [0, 3, 2000, 600_000]), calls });
        try {
          needed = inNeed(replicas, talks, random);
          replicas.startServers();
        } catch (error) {
          if (!(error instanceof PowerCut)) throw error;
          replicas.startAgain("power", { awayMs: 100, calls: Infinity });
          needed = inNeed(replicas, talks, random);
          replicas.startServers();
        }
      }
      finishAlive(replicas, talks, needed, random);
      disk.files.endFaults();
      replicas.wait(READ_LINGER_MS);
      checkEmpty(replicas);
    }
  },
);

seededTest(
  "logs on disk on two hosts: whatever clients were told survives both, on either's disk",
  (random) => {
    for (let round = 0; round < rounds(20); round++) {
      const logLimit = 1 << 18;
      const [disk, standbyDisk] = [0, 1].map(() => {
        const isLazy = random.next();
        return new DiskHost({
          random,
          segmentOctets: pick(random, [3000, 30_000, 1 << 20]),
          slackOctets: pick(random, [10_000, 100_000]),
          logLimit,
          isBusy: () => random.next() < isLazy * 0.9,
        });
      });
      const options = {
        ...logOptions(random),
        commit: "strict" as const,
        logLimit,
        tellOctets: pick(random, PACES),
        mayReset: "late" as const,
      };
      const replicas = new Replicas({ ...options, disk, standbyDisk });
      const talks = Array.from({ length: 4 }, (_, i) => talk(random, replicas, 10000 + i));
      let needed = talks;
      for (let deaths = 1 + random.integer(3); deaths > 0; deaths--) {
        replicas.run(() => replicas.isStored);
        runFor(replicas, talks, random.integer(120));
        const fate = random.next();
        if (fate < 0.2) replicas.switchOver();
        else if (fate < 0.4) {
          // Its last messages may be applied, and not durable yet.
          replicas.crash(random.integer(3));
          runFor(replicas, talks, random.integer(5));
        } else if (fate < 0.6) {
          replicas.dropStandby();
          runFor(replicas, talks, random.integer(40));
        }
        if (fate > 0.1) {
          const swaps = replicas.standby !== null && random.next() < 0.5;
          const awayMs = pick(random, [0, 3, 2000]);
          const how = pick(random, ["killed", "power"] as const);
          replicas.startAgain(how, { awayMs, calls: Infinity, swaps });
        }
        needed = inNeed(replicas, talks, random);
        replicas.startServers();
        if (replicas.standby === null) {
          runFor(replicas, talks, random.integer(20));
          replicas.join();
        }
        talks.push(talk(random, replicas, 10000 + talks.length));
        replicas.run(() => replicas.isStored);
        needed = talks.filter(({ client, expected }) => client.received.length < expected.length);
      }
      finish(replicas, talks, needed);
      replicas.wait(READ_LINGER_MS);
      checkEmpty(replicas);
    }
  },
);

/**
 * With commit "ack": a client that says `request` and its end is answered by a primary whose standby hears of
 * neither, and goes on when that one is dead.
 */
function beAnsweredAlone(
  random: Random,
  { program, warm, request }: {
    program: ReplicasOptions["program"];
    warm: boolean[];
    request: Uint8Array;
  },
): { replicas: Replicas; client: Endpoint } {
  const log = { holds: false, warm };
  const tellOctets = pick(random, PACES);
  const replicas = new Replicas({ program, commit: "ack", log, tellOctets });
  const client = replicas.connect(10000);
  replicas.run(() => client.state === "open" && replicas.standby!.inbox.length === 0);
  for (let i = 0; i < 10; i++) replicas.step();
  replicas.standby!.lag = Infinity;
  client.write(request);
  client.end();
  replicas.run(() => client.ended);
  strictEqual(client.isDrained, false, "octets were acknowledged that the standby had not heard");
  replicas.crash(Infinity);
  for (let i = random.integer(5); i > 0; i--) replicas.step();
  replicas.startServers();
  return { replicas, client };
}

seededTest(
  "log mode: a FIN that the dead primary alone had heard, and its server answered, is no riddle to the next",
  (random) => {
    for (const warm of [[], [false, true, false], [false, true, true]]) {
      const request = randomOctets(random, 10_000);
      const program = (server: Endpoint) => {
        server.onEnd = () => {
          server.write(server.received.subarray(0, 2000));
          server.end();
        };
      };
      const { replicas, client } = beAnsweredAlone(random, { program, warm, request });
      // The next standby may be told of it before that server has heard the FIN.
      replicas.run(() => replicas.primary.servers.get(10000)?.received.length === request.length);
      const server = replicas.primary.servers.get(10000)!;
      strictEqual(server.ended, false);
      replicas.join();
      replicas.run(() => client.isDrained && server.ended && server.isDrained);
      checkOctets(client.received, request.slice(0, 2000), "client");
      checkOctets(server.received, request, "server");
      checkEmpty(replicas);
    }
  },
);

seededTest(
  "log mode: a server that is slow to answer what came with such a FIN is given time before it hears that",
  (random) => {
    const request = randomOctets(random, 3000);
    const answer = randomOctets(random, 500);
    const atWork: Endpoint[] = [];
    let isSlow = false;
    const program = (server: Endpoint) => {
      server.onOctets = () => {
        if (server.received.length < request.length) return;
        if (isSlow) atWork.push(server);
        else server.write(answer);
      };
      // As nginx does: a client that seems to be gone is answered no more.
      server.onEnd = () => {
        atWork.length = 0;
        server.end();
      };
    };
    const { replicas, client } = beAnsweredAlone(random, { program, warm: [], request });
    isSlow = true;
    replicas.run(() => atWork.length > 0);
    const fromMs = replicas.nowMs;
    replicas.run(() => replicas.nowMs - fromMs > FIN_WAIT_MS / 2);
    const server = replicas.primary.servers.get(10000)!;
    strictEqual(server.ended, false);
    for (const each of atWork) each.write(answer);
    replicas.run(() => client.isDrained && server.ended && server.isDrained);
    checkOctets(client.received, answer, "client");
    checkEmpty(replicas);
  },
);

seededTest("log mode without a death serves and ends connections like any other", (random) => {
  for (let round = 0; round < rounds(8); round++) {
    const replicas = new Replicas({ ...logOptions(random), alone: random.next() < 0.5 });
    const talks = Array.from({ length: 6 }, (_, i) => talk(random, replicas, 10000 + i));
    replicas.run(() => allDone(replicas, talks));
    check(replicas, talks);
    checkEmpty(replicas);
  }
});

/** A client that uploads `octets` to a server that only reads. */
function upload(replicas: Replicas, port: number, octets: Uint8Array): Endpoint {
  const client = replicas.connect(port);
  client.write(octets);
  client.end();
  return client;
}

const readAll = { program: (server: Endpoint) => void (server.onEnd = () => server.end()) };

seededTest("log mode: a client that says more than its log holds goes on unprotected", (random) => {
  const logLimit = 65536;
  const log = { holds: false };
  const replicas = new Replicas({ ...readAll, log, alone: true, logLimit });
  const octets = randomOctets(random, 200_000);
  const client = upload(replicas, 10000, octets);
  replicas.run(() => client.ended && client.isDrained);
  checkOctets(replicas.primary.servers.get(10000)!.received, octets, "server");
  const { driver } = replicas.primary;
  strictEqual(driver.field(0, "reason"), Reason.logFull);
  strictEqual(driver.counter("unprotected"), 1);
});

seededTest(
  "log mode: a client may be slowed at the limit instead, and is protected still",
  (random) => {
    const logLimit = 65536;
    const log = { holds: true };
    const replicas = new Replicas({ ...readAll, log, alone: true, logLimit });
    const octets = randomOctets(random, 200_000);
    const client = upload(replicas, 10000, octets);
    for (let i = 0; i < 2000; i++) replicas.step();
    const { driver } = replicas.primary;
    const server = replicas.primary.servers.get(10000)!;
    const past = server.received.length - logLimit;
    ok(past >= 0 && past < 1 << 14, `${past} octets past the limit`);
    strictEqual(client.ended, false);
    ok(!isAfter(driver.field(0, "rcvNxt"), driver.field(0, "irs") + 1 + logLimit + (1 << 14)));
    replicas.killServers();
    replicas.startServers();
    for (let i = 0; i < 2000; i++) replicas.step();
    checkOctets(
      replicas.primary.servers.get(10000)!.received,
      octets.slice(0, server.received.length),
      "new server",
    );
  },
);

seededTest(
  "log mode: a client is answered while nobody serves it, and its window closes",
  (random) => {
    const replicas = new Replicas({ ...readAll, log: { holds: false }, alone: true });
    const octets = randomOctets(random, 200_000);
    const client = upload(replicas, 10000, octets);
    for (let i = 0; i < 5; i++) replicas.step();
    replicas.killServers(() => pick(random, [true, false]));
    const { driver } = replicas.primary;
    for (let i = 0; i < 500; i++) {
      replicas.wait(1000);
      client.timeout();
    }
    const acked = driver.field(0, "ackShown");
    strictEqual(acked, driver.field(0, "edgeShown"), "the window is not closed");
    strictEqual(driver.field(0, "phase"), Phase.open);
    const asked = driver.counter("acksMade");
    client.timeout();
    for (let i = 0; i < 5; i++) replicas.step();
    ok(driver.counter("acksMade") > asked, "a probe of the closed window was not answered");
    replicas.startServers();
    replicas.run(() => client.ended && client.isDrained);
    checkOctets(replicas.primary.servers.get(10000)!.received, octets, "server");
  },
);

seededTest(
  "log mode: a new server that ends early has died, or costs the client its connection if it lives",
  (random) => {
    for (const dies of [true, false]) {
      let life = 0;
      const program = (server: Endpoint) => {
        const own = life;
        let room = own === 1 ? 5000 : Infinity;
        server.onOctets = (octets) => {
          if (room <= 0) return;
          server.write(octets.subarray(0, room));
          room -= octets.length;
          // The second life ends in the midst of what the client has.
          if (room <= 0) server.end();
        };
        server.onEnd = () => {
          if (room > 0) server.end();
        };
      };
      const log = { holds: false };
      const replicas = new Replicas({ program, log, alone: true, mayReset: !dies });
      const octets = randomOctets(random, 60_000);
      const client = replicas.connect(10000, { scale: 0, window: 4000 });
      client.write(octets);
      client.end();
      replicas.run(() => client.received.length > 30_000);
      life = 1;
      replicas.killServers();
      replicas.startServers();
      if (!dies) {
        replicas.run(() => client.state === "reset");
        continue;
      }
      const { driver, servers } = replicas.primary;
      replicas.run(() => servers.has(10000));
      // Nobody listens any more.
      replicas.primary.down = true;
      replicas.run(() => driver.counter("endsHeld") > 0);
      life = 2;
      replicas.killServers();
      replicas.startServers();
      replicas.run(() => client.ended && client.isDrained);
      checkOctets(client.received, octets, "client");
    }
  },
);

seededTest(
  "log mode: a new server that writes other octets costs the client its connection",
  (random) => {
    for (let round = 0; round < rounds(10); round++) {
      let life = 0;
      const program = (server: Endpoint) => {
        const own = life;
        server.onOctets = () => {
          const answer = randomAnswer(server.received.length);
          // The second life writes one octet otherwise, that the client has or may have.
          if (own === 1) answer[1000] ^= 1;
          server.write(answer);
        };
      };
      const alone = random.next() < 0.5;
      const replicas = new Replicas({ program, log: { holds: false }, alone, mayReset: true });
      const client = replicas.connect(10000);
      client.write(Uint8Array.of(1));
      replicas.run(() => client.received.length > 2000);
      life = 1;
      if (alone) replicas.killServers(() => random.next() < 0.5);
      else replicas.crash();
      for (let i = random.integer(40); i > 0; i--) replicas.step();
      replicas.startServers();
      replicas.run(() => client.state === "reset");
      const expected = randomAnswer(1).slice(0, client.received.length);
      checkOctets(client.received, expected, "client");
      strictEqual(replicas.primary.driver.counter("diverged"), 1);
    }
  },
);

/** What a server answers to so many octets. */
function randomAnswer(count: number): Uint8Array {
  return Uint8Array.from(
    { length: 100_000 },
    (_, i) => Math.imul(i + 7, count * 2654435761) >>> 13,
  );
}

/** Says of progress: what was told again of the connection was told to its end. */
const TOLD_AGAIN = 16;

/** A host in log mode that has read `bodies`, each from a segment of its own, and goes on from them. */
function reader(bodies: readonly Uint8Array[]): Driver {
  const driver = new Driver();
  const { wasm } = driver.core;
  wasm.setLogMode(1, 0);
  wasm.setRole(1);
  for (const [index, body] of bodies.entries()) {
    wasm.setSegment(index + 1);
    driver.pass({ bodies: [body] });
  }
  wasm.setSegment(bodies.length + 1);
  driver.takeOver("store");
  return driver;
}

/** The next message, with the progress of all connections. */
function nextBody(driver: Driver): Uint8Array {
  driver.core.wasm.markAll();
  driver.drain();
  return driver.takeBody()!.body;
}

/** Whether some progress in it says that a connection was told again to its end. */
function saysToldAgain(body: Uint8Array): boolean {
  const progress = decodeRecords(body).filter(({ type }) => type === RecordType.progress);
  ok(progress.length > 0);
  return progress.some(({ flags }) => (flags & TOLD_AGAIN) !== 0);
}

Deno.test("what was told again in part is not called all of it, by who tells it nor by the next", () => {
  const open = openOf({ client: CLIENT_V4, clientPort: 10000, irs: 1000, iss: 5000 });
  const said = encodeData(0, 1001, new Uint8Array(100_000));
  const shown = { cliAck: 5001, ackShown: 101_001, edgeShown: 164_000, sndShown: 5001 };
  const first = joined(encodeOpen(0, open), said, encodeProgress(0, shown));
  const teller = reader([first]);
  const { wasm } = teller.core;
  nextBody(teller);
  strictEqual(wasm.tellAgain(2, 20_000), 1);
  const part = nextBody(teller);
  strictEqual(saysToldAgain(part), false);

  // It dies. Of who goes on from its log the next one in turn must not believe that the first segment can go.
  const second = reader([first, part]);
  const own = nextBody(second);
  strictEqual(saysToldAgain(own), false);
  strictEqual(reader([first, part, own]).core.wasm.oldestTold(), 1);

  // It lives, and begins once more, as a standby has come.
  wasm.standbyJoined(LOG_LIMIT);
  strictEqual(saysToldAgain(nextBody(teller)), false);
  const rest: Uint8Array[] = [];
  for (let more = true; more;) {
    more = wasm.tellAgain(2, 20_000) !== 0;
    rest.push(nextBody(teller));
  }
  deepStrictEqual(rest.map(saysToldAgain), rest.map((_, index) => index === rest.length - 1));
  const whole = joined(...rest);
  strictEqual(reader([first, part, whole]).core.wasm.oldestTold(), 3);
  const { core } = reader([whole]);
  strictEqual(core.view.getUint32(core.wasm.recordAt(0) + core.offsets.rcvNxt, true), 101_001);
});
