/**
 * core_cutting_test.ts - logs that are cut between requests, as a hint says that both streams are HTTP/1.1
 *
 * The claims are those of core_replay_test.ts and core_rejoin_test.ts, of clients that say far more than a log may
 * hold. Then servers that are not what the hint says: their connections go on whole, or end; the client never reads
 * an octet that is not the stream's.
 */
import { ok, strictEqual } from "node:assert/strict";
import type { Random } from "../net/random.ts";
import { DiskHost, PowerCut } from "./disk_host.ts";
import type { Endpoint } from "./endpoint.ts";
import { httpProgram, httpTalk, latin1, LIES, MANNERS, randomRequest } from "./http_talks.ts";
import { messageEnd } from "./http_twin.ts";
import { Replicas, type ReplicasOptions } from "./replicas.ts";
import { pick, rounds, seededTest } from "./seeded.ts";
import {
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

/** What may be kept of a connection; each client says some ten times as much. */
const LOG_OCTETS = 12_000;
const REQUESTS = 300;
/** Rounds after which what must be seen, to show that a check could fail, was not. */
const ROUNDS_MAX = 200;

function httpOptions(random: Random): ReplicasOptions {
  const { family, commit, number, scale, fate } = randomOptions(random);
  const options = { program: httpProgram, hint: true, logLimit: LOG_OCTETS };
  return { ...options, family, commit, number, scale, fate };
}

/** The same in log mode. */
function logOptions(random: Random): ReplicasOptions {
  return { ...httpOptions(random), log: { holds: random.next() < 0.3 } };
}

function talks(
  random: Random,
  replicas: Replicas,
  number: number,
  manners: readonly string[] = MANNERS,
): Talk[] {
  return Array.from({ length: number }, (_, i) => {
    const count = 1 + random.integer(REQUESTS);
    const requests = Array.from({ length: count }, () => randomRequest(random, manners));
    return httpTalk(random, replicas, 10000 + i, { requests, depth: pick(random, [1, 1, 3, 8]) });
  });
}

/** Every client has read its answers, and what its last server has read is how its requests end. */
function finish(replicas: Replicas, all: Talk[]): void {
  replicas.run(() => all.every(isDone), 60_000);
  for (const { client, port, expected, request } of all) {
    checkOctets(client.received, expected, `client ${port}`);
    const server = replicas.primary.servers.get(port);
    if (server === undefined) continue;
    const read = server.received;
    checkOctets(read, request.slice(request.length - read.length), `server of ${port}`);
  }
  strictEqual(replicas.primary.driver.counter("diverged"), 0);
}

/** Some log was cut on some host, and nobody was unprotected for the length of what was said. */
class Cuts {
  #cuts = 0;
  #octets = 0;

  note(replicas: Replicas): void {
    const { driver } = replicas.primary;
    this.#cuts += driver.counter("cuts");
    this.#octets += driver.counter("cutOctets");
    strictEqual(driver.counter("cutsEnded"), 0, "a stream was not followed");
  }

  check(): void {
    ok(this.#cuts > 20 && this.#octets > 20 * 1024, `${this.#cuts} cuts, ${this.#octets} octets`);
  }
}

seededTest("a log is cut between requests, and servers that die are not missed", (random) => {
  const cuts = new Cuts();
  for (let round = 0; round < rounds(15); round++) {
    const replicas = new Replicas({ ...logOptions(random), alone: true });
    const free = replicas.primary.driver.core.wasm.blockOctetsFree();
    const all = talks(random, replicas, 4);
    for (let deaths = random.integer(6); deaths > 0; deaths--) {
      runFor(replicas, all, random.integer(400));
      replicas.killServers(() => random.next() < 0.3);
      for (let i = random.integer(40); i > 0; i--) replicas.step();
      replicas.startServers();
      // Now and then the next one dies too while it is played the log.
      for (let i = random.integer(12); i > 0; i--) replicas.step();
    }
    finish(replicas, all);
    strictEqual(replicas.primary.driver.counter("unprotected"), 0);
    cuts.note(replicas);
    checkEmpty(replicas);
    strictEqual(replicas.primary.driver.core.wasm.blockOctetsFree(), free);
  }
  cuts.check();
});

seededTest("a standby knows where a log was cut, and so does each that comes later", (random) => {
  const cuts = new Cuts();
  for (let round = 0; round < rounds(15); round++) {
    const options = { tellOctets: pick(random, PACES), mayReset: "late" } as const;
    const replicas = new Replicas({ ...logOptions(random), ...options });
    const all = talks(random, replicas, 4);
    for (let deaths = 1 + random.integer(4); deaths > 0; deaths--) {
      runFor(replicas, all, random.integer(400));
      if (random.next() < 0.3) replicas.switchOver();
      else {
        cuts.note(replicas);
        replicas.crash(random.integer(3));
      }
      for (let i = random.integer(30); i > 0; i--) replicas.step();
      replicas.startServers();
      if (replicas.standby === null) {
        runFor(replicas, all, random.integer(20));
        replicas.join();
      }
      replicas.run(() => replicas.isWhole);
    }
    finish(replicas, all);
    cuts.note(replicas);
    checkEmpty(replicas);
  }
  cuts.check();
});

seededTest(
  "a warm standby's servers follow where logs are cut, and new ones begin there",
  (random) => {
    const cuts = new Cuts();
    for (let round = 0; round < rounds(15); round++) {
      const warm = Array.from({ length: 8 }, (_, index) => index === 1 || random.next() < 0.5);
      const log = { holds: random.next() < 0.3, warm };
      const options = { tellOctets: pick(random, PACES), mayReset: "late", log } as const;
      const replicas = new Replicas({ ...httpOptions(random), ...options });
      const all = talks(random, replicas, 4);
      for (let deaths = 1 + random.integer(4); deaths > 0; deaths--) {
        runFor(replicas, all, random.integer(400));
        const { standby } = replicas;
        const dies = standby!.isWarm && random.next() < 0.5;
        if (dies) {
          replicas.killServers(() => random.next() < 0.3, standby!);
          runFor(replicas, all, random.integer(60));
          if (random.next() < 0.7) replicas.startServers(standby!);
          runFor(replicas, all, random.integer(100));
        }
        if (random.next() < 0.3) replicas.switchOver();
        else {
          cuts.note(replicas);
          replicas.crash(random.integer(3));
        }
        for (let i = random.integer(30); i > 0; i--) replicas.step();
        if (standby!.down || !standby!.isWarm) replicas.startServers();
        if (replicas.standby === null) {
          runFor(replicas, all, random.integer(20));
          replicas.join();
        }
        replicas.run(() => replicas.isWhole);
      }
      finish(replicas, all);
      cuts.note(replicas);
      checkEmpty(replicas);
    }
    cuts.check();
  },
);

seededTest(
  "what is on a disk of a log that was cut survives loss of power at any write",
  (random) => {
    const cuts = new Cuts();
    for (let round = 0; round < rounds(15); round++) {
      const isLazy = random.next();
      const disk = new DiskHost({
        random,
        segmentOctets: pick(random, [3000, 30_000, 1 << 20]),
        slackOctets: pick(random, [-Infinity, 10_000]),
        logLimit: LOG_OCTETS,
        isBusy: () => random.next() < isLazy * 0.9,
      });
      const options = { ...logOptions(random), commit: "strict" as const, logLimit: LOG_OCTETS };
      const replicas = new Replicas({ ...options, alone: true, disk });
      const all = talks(random, replicas, 3);
      for (let deaths = 1 + random.integer(4); deaths > 0; deaths--) {
        let how: "killed" | "power" = pick(random, ["killed", "power"]);
        try {
          runFor(replicas, all, random.integer(300));
        } catch (error) {
          if (!(error instanceof PowerCut)) throw error;
          how = "power";
        }
        cuts.note(replicas);
        const calls = random.next() < 0.5 ? Infinity : 1 + random.integer(200);
        replicas.startAgain(how, { awayMs: pick(random, [0, 3, 2000]), calls });
        replicas.startServers();
      }
      for (let isOver = false; !isOver;) {
        try {
          finish(replicas, all);
          isOver = true;
        } catch (error) {
          if (!(error instanceof PowerCut)) throw error;
          replicas.startAgain("power", { awayMs: 100, calls: Infinity });
          replicas.startServers();
        }
      }
      cuts.note(replicas);
    }
    cuts.check();
  },
);

seededTest(
  "hot: a standby that comes late is brought connections that have said more than is kept",
  (random) => {
    const cuts = new Cuts();
    for (let round = 0; round < rounds(15); round++) {
      const options = {
        tellOctets: pick(random, PACES),
        mayReset: "late",
        keep: LOG_OCTETS,
      } as const;
      const replicas = new Replicas({ ...httpOptions(random), logLimit: 1 << 16, ...options });
      const all = talks(random, replicas, 4);
      for (let deaths = 1 + random.integer(4); deaths > 0; deaths--) {
        runFor(replicas, all, random.integer(400));
        if (random.next() < 0.3) replicas.switchOver();
        else {
          cuts.note(replicas);
          replicas.crash(random.integer(3));
        }
        if (replicas.standby === null) {
          runFor(replicas, all, random.integer(40));
          replicas.join();
        }
        replicas.run(() => replicas.isWhole);
        const kept = replicas.keptPorts();
        for (const { client, port } of all) {
          const isIdle = client.state !== "open" || client.ended;
          ok(isIdle || kept.includes(port), replicas.describe());
        }
      }
      finish(replicas, all);
      cuts.note(replicas);
      checkEmpty(replicas);
    }
    cuts.check();
  },
);

seededTest("a hint that is wrong from the first changes nothing", (random) => {
  for (let round = 0; round < rounds(15); round++) {
    const options = {
      ...randomOptions(random),
      log: { holds: false },
      hint: true,
      logLimit: 1 << 18,
    };
    const replicas = new Replicas({ ...options, alone: true });
    const all = Array.from({ length: 6 }, (_, i) => talk(random, replicas, 10000 + i));
    for (let deaths = 1 + random.integer(3); deaths > 0; deaths--) {
      runFor(replicas, all, random.integer(120));
      replicas.killServers(() => random.next() < 0.3);
      for (let i = random.integer(40); i > 0; i--) replicas.step();
      replicas.startServers();
    }
    replicas.run(() => all.every(isDone));
    for (const { client, expected, port } of all) checkOctets(client.received, expected, `${port}`);
    strictEqual(replicas.primary.driver.counter("cuts"), 0);
    ok(replicas.primary.driver.counter("cutsEnded") > 0);
  }
});

seededTest(
  "answers that are framed otherwise end the cutting, or the connection, and give no wrong octet",
  (random) => {
    const seen = { cuts: 0, ended: 0, done: 0 };
    for (let round = 0; round < rounds(12); round++) {
      const alone = random.next() < 0.5;
      const options = { ...logOptions(random), logLimit: 1 << 17, mayReset: true };
      const replicas = new Replicas({ ...options, alone });
      const manners = [...Array.from({ length: 6 }, () => MANNERS).flat(), pick(random, LIES)];
      const all = talks(random, replicas, 4, manners);
      for (let deaths = 1 + random.integer(3); deaths > 0; deaths--) {
        let steps = random.integer(300);
        replicas.run(() => all.every(isOver) || steps-- <= 0);
        if (replicas.standby === null) replicas.killServers(() => random.next() < 0.3);
        else {
          seen.cuts += replicas.primary.driver.counter("cuts");
          seen.ended += replicas.primary.driver.counter("cutsEnded");
          replicas.crash(random.integer(3));
        }
        for (let i = random.integer(20); i > 0; i--) replicas.step();
        replicas.startServers();
      }
      // Whose octets no server says again is held until that server ends it.
      countLost(replicas, all, []);
      seen.done += all.filter(isDone).length;
      seen.cuts += replicas.primary.driver.counter("cuts");
      seen.ended += replicas.primary.driver.counter("cutsEnded");
    }
    ok(seen.cuts > 10 && seen.ended > 10 && seen.done > 10, JSON.stringify(seen));
  },
);

function isOver(it: Talk): boolean {
  return isDone(it) || it.client.state === "reset";
}

seededTest(
  "a server that counts what a connection has asked: no answer is put together of two",
  (random) => {
    const seen = { resets: 0, uneven: 0, cuts: 0 };
    const isSeen = () => seen.cuts > 10 && seen.resets > 0 && seen.uneven > 0;
    for (let round = 0; round < rounds(12) || (!isSeen() && round < ROUNDS_MAX); round++) {
      const replicas = new Replicas({
        ...logOptions(random),
        program: counting,
        alone: true,
        mayReset: true,
      });
      const client = replicas.connect(10000, { window: pick(random, [2000, 20000]) });
      const request = latin1(`GET / HTTP/1.1\r\nX-Fill: ${"f".repeat(500)}\r\n\r\n`);
      let asked = 0;
      const read = () => countsOf(client.received);
      client.onOctets = () => {
        while (asked < 60 && asked <= read().whole) client.write(request), asked++;
      };
      client.write(request);
      asked++;
      for (let deaths = 3; deaths > 0; deaths--) {
        let steps = 20 + random.integer(200);
        replicas.run(() => client.state === "reset" || read().whole === 60 || steps-- <= 0);
        replicas.killServers();
        replicas.startServers();
      }
      let steps = 4000;
      replicas.run(() => client.state === "reset" || read().whole === 60 || steps-- <= 0);
      const { counts, whole } = read();
      if (client.state === "reset") seen.resets++;
      else strictEqual(whole, 60);
      // A later server begins to count anew; within an answer nobody does.
      if (counts.some((count, i) => count !== i + 1)) seen.uneven++;
      seen.cuts += replicas.primary.driver.counter("cuts");
    }
    ok(isSeen(), JSON.stringify(seen));
  },
);

/** Answers 3000 times the number of the request on its connection, as one octet. */
function counting(server: Endpoint): void {
  let text = "";
  let count = 0;
  server.onOctets = (octets) => {
    text += Array.from(octets, (octet) => String.fromCharCode(octet)).join("");
    for (let end = messageEnd(text, null); typeof end === "number"; end = messageEnd(text, null)) {
      text = text.slice(end);
      const body = String.fromCharCode(++count).repeat(3000);
      server.write(latin1(`HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n${body}`));
    }
  };
}

const COUNTED = "HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n".length + 3000;

/** The numbers that answers say; throws when one answer says two. */
function countsOf(received: Uint8Array): { counts: number[]; whole: number } {
  const counts: number[] = [];
  for (let at = 0; at < received.length; at += COUNTED) {
    const body = received.subarray(at + COUNTED - 3000, at + COUNTED);
    if (body.length === 0) break;
    ok(body.every((octet) => octet === body[0]), `an answer of two servers at octet ${at}`);
    counts.push(body[0]);
  }
  return { counts, whole: Math.floor(received.length / COUNTED) };
}
