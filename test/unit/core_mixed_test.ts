/**
 * core_mixed_test.ts - hosts that keep whole logs, of which some feed a server while they stand by
 *
 * The claims are those of core_takeover_test.ts and core_replay_test.ts: every client reads what one healthy server
 * would have said, and the servers what their clients have. Moreover:
 *   a warm standby goes on at once with what its servers follow: nothing is played to another one
 *   what its servers do not follow, because they died, are behind or say otherwise, is kept as in log mode
 *   when the primary's servers die a warm standby can be handed all of it
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import type { Random } from "../net/random.ts";
import { Phase, Reason } from "./core_driver.ts";
import type { Endpoint } from "./endpoint.ts";
import { type Host, Replicas, type ReplicasOptions } from "./replicas.ts";
import { pick, rounds, seededTest } from "./seeded.ts";
import {
  check,
  checkEmpty,
  checkOctets,
  isDone,
  PACES,
  program,
  randomOptions,
  runFor,
  type Talk,
  talk,
} from "./talks.ts";

/** More than any of the clients says. */
const ALL = 1 << 18;

/** A service whose hosts are warm as `warm` says, one after the other. */
function mixed(
  random: Random,
  warm: readonly boolean[],
  options: Partial<ReplicasOptions> = {},
): Replicas {
  const log = { holds: random.next() < 0.5, warm };
  const tellOctets = pick(random, PACES);
  return new Replicas({ ...randomOptions(random), logLimit: ALL, tellOctets, log, ...options });
}

function talks(random: Random, replicas: Replicas, number = 6): Talk[] {
  return Array.from({ length: number }, (_, i) => talk(random, replicas, 10000 + i));
}

/** Every client has read all of its stream. */
function finish(replicas: Replicas, all: Talk[]): void {
  replicas.run(() => all.every(isDone));
  for (const { client, port, expected } of all) {
    checkOctets(client.received, expected, `client ${port}`);
  }
}

seededTest("a warm standby goes on with the servers that it has", (random) => {
  let unfinished = 0;
  for (let round = 0; round < rounds(30); round++) {
    const replicas = mixed(random, [random.next() < 0.5, true]);
    const all = talks(random, replicas);
    runFor(replicas, all, random.integer(120));
    const servers = new Map(replicas.standby!.servers);
    const needed = all.filter((it) => !isDone(it));
    unfinished += needed.length;
    if (random.next() < 0.5) replicas.switchOver();
    else replicas.crash(random.integer(3));
    finish(replicas, all);
    const server = (port: number) => replicas.primary.servers.get(port);
    replicas.run(() => needed.every(({ port }) => server(port)?.isDrained === true));
    check(replicas, needed);
    for (const [port, before] of servers) strictEqual(server(port), before);
    checkEmpty(replicas);
  }
  ok(unfinished > 0, "all were served before the first host died");
});

seededTest(
  "a client whose connection is over hears nothing of a server that is late, whatever it says",
  (random) => {
    let number = 0;
    for (let round = 0; round < rounds(20); round++) {
      const waiting: { server: Endpoint; port: number; act: () => void }[] = [];
      let isHeld = true;
      const late = (server: Endpoint, port: number) => {
        program(server, port);
        const { onEnd, onOctets } = server;
        let isBehind = false;
        const perform = (act: () => void) => {
          isBehind ||= replicas.primary.servers.get(port) !== server;
          if (isHeld && isBehind) waiting.push({ server, port, act });
          else act();
        };
        server.onOctets = (octets) => perform(() => onOctets(octets));
        server.onEnd = () => perform(onEnd);
      };
      const fate = () => [random.integer(4)];
      const replicas = mixed(random, [random.next() < 0.5, true], { program: late, fate });
      const all = talks(random, replicas);
      runFor(replicas, all, random.integer(120));
      const over = all.filter(isDone);
      number += over.length;
      // What they say and hear of that is no longer on the wire.
      for (let i = 0; i < 10; i++) replicas.step();
      const strays = over.map(({ client }) => client.strays);
      replicas.switchOver();
      const odd = random.next() < 0.5 ? over.map(({ port }) => port) : [];
      for (const { server, port, act } of waiting) {
        if (odd.includes(port)) server.write(Uint8Array.of(1, 2, 3));
        act();
        replicas.step();
      }
      isHeld = false;
      finish(replicas, all);
      checkEmpty(replicas);
      deepStrictEqual(over.map(({ client }) => client.strays), strays);
    }
    ok(number > 0, "none was over before the switch");
  },
);

seededTest(
  "what the dead servers of a warm standby followed is kept, and played to the next",
  (random) => {
    let unfinished = 0;
    for (let round = 0; round < rounds(30); round++) {
      const replicas = mixed(random, [random.next() < 0.5, true]);
      const all = talks(random, replicas);
      runFor(replicas, all, random.integer(100));
      const { standby } = replicas;
      replicas.killServers(() => random.next() < 0.5, standby!);
      for (let i = 0; i < 4; i++) replicas.step();
      deepStrictEqual(replicas.warmPorts(), []);
      runFor(replicas, all, random.integer(40));
      const isBack = random.next() < 0.5;
      if (isBack) {
        replicas.startServers(standby!);
        runFor(replicas, all, random.integer(60));
      }
      unfinished += all.filter((it) => !isDone(it)).length;
      replicas.crash(random.integer(3));
      for (let i = random.integer(30); i > 0; i--) replicas.step();
      if (!isBack) replicas.startServers();
      finish(replicas, all);
      checkEmpty(replicas);
    }
    ok(unfinished > 0, "all were served before the first host died");
  },
);

seededTest("servers that were started anew on a warm standby come to follow again", (random) => {
  for (let round = 0; round < rounds(20); round++) {
    const replicas = mixed(random, [false, true]);
    const all = talks(random, replicas);
    runFor(replicas, all, 60);
    replicas.killServers(() => random.next() < 0.5, replicas.standby!);
    runFor(replicas, all, random.integer(20));
    replicas.startServers(replicas.standby!);
    const ports = () => all.filter((it) => !isDone(it)).map(({ port }) => port);
    replicas.run(() => ports().every((port) => replicas.warmPorts().includes(port)));
    const servers = new Map(replicas.standby!.servers);
    replicas.crash(random.integer(3));
    finish(replicas, all);
    for (const [port, server] of servers) strictEqual(replicas.primary.servers.get(port), server);
  }
});

seededTest("when the primary's servers die a warm standby is handed all of it", (random) => {
  let handed = 0;
  for (let round = 0; round < rounds(30); round++) {
    const replicas = mixed(random, [random.next() < 0.5, true]);
    const all = talks(random, replicas);
    runFor(replicas, all, random.integer(100));
    replicas.killServers(() => random.next() < 0.5);
    const { primary } = replicas;
    if (primary.driver.core.wasm.canPass() !== 0) {
      handed++;
      replicas.switchOver();
    } else replicas.startServers();
    finish(replicas, all);
    if (primary !== replicas.primary && primary.isWarm) replicas.startServers(primary);
    checkEmpty(replicas);
  }
  ok(handed > 0, "none was handed over");
});

seededTest("a warm standby that says otherwise protects as a log, and shows it", (random) => {
  let kept = 0;
  for (let round = 0; round < rounds(15); round++) {
    const made = new Map<number, number>();
    // The second server of a connection is the standby's.
    const differs = (server: Endpoint, port: number) => {
      const number = (made.get(port) ?? 0) + 1;
      made.set(port, number);
      if (number !== 2) return program(server, port);
      server.onOctets = () => server.write(new TextEncoder().encode("something else"));
    };
    const options = { program: differs, divergence: "reset", mayReset: true } as const;
    const replicas = mixed(random, [false, true], options);
    const all = talks(random, replicas, 4);
    const cold = () => coldPorts(replicas.primary);
    replicas.run(() => cold().length > 0 || all.every(isDone));
    runFor(replicas, all, random.integer(10));
    const ports = cold();
    kept += ports.length;
    const found = replicas.primary.driver.takeFindings().map(({ kind }) => kind);
    ok(found.every((kind) => kind === "divergedFromLog"), `${found}`);
    for (const port of ports) ok(replicas.keptPorts().includes(port), `${port} is not protected`);
    replicas.crash();
    // What was not compared yet is reset.
    finish(replicas, all.filter((it) => ports.includes(it.port) || isDone(it)));
  }
  ok(kept > 0, "no difference was found");
});

/** Clients' ports of connections that live, and that the standby's server does not follow, as a primary was told. */
function coldPorts({ driver }: Host): number[] {
  const { wasm } = driver.core;
  const isCold = (index: number) =>
    wasm.recordAt(index) !== 0 && driver.field(index, "cold") === Reason.diverged &&
    driver.field(index, "phase") < Phase.closed;
  const indices = Array.from({ length: wasm.highWater() }, (_, index) => index).filter(isCold);
  return indices.map((index) => driver.field(index, "ports") & 0xffff);
}

seededTest("host after host dies, warm and not, and each new one is told what lives", (random) => {
  for (let round = 0; round < rounds(30); round++) {
    const warm = Array.from({ length: 12 }, () => random.next() < 0.5);
    const replicas = mixed(random, warm, { mayReset: "late" });
    const all = talks(random, replicas, 5);
    for (let deaths = 2 + random.integer(4); deaths > 0; deaths--) {
      runFor(replicas, all, random.integer(80));
      const { primary, standby } = replicas;
      const fate = random.next();
      if (fate < 0.2) replicas.killServers(() => random.next() < 0.5);
      else if (fate < 0.4 && standby!.isWarm) {
        replicas.killServers(() => random.next() < 0.5, standby!);
      }
      if (fate < 0.4) runFor(replicas, all, random.integer(20));
      const dice = random.next();
      if (dice < 0.3) replicas.switchOver();
      else if (dice < 0.8) replicas.crash(random.integer(3));
      for (let i = random.integer(20); i > 0; i--) replicas.step();
      if (replicas.primary === standby && !standby.isWarm) replicas.startServers();
      for (const host of [primary, standby!]) {
        if (host.down && isThere(replicas, host)) replicas.startServers(host);
      }
      if (replicas.standby === null) {
        runFor(replicas, all, random.integer(20));
        replicas.join();
      }
      all.push(talk(random, replicas, 10000 + all.length));
      replicas.run(() => replicas.isWhole);
    }
    finish(replicas, all);
    checkEmpty(replicas);
  }
});

/** It is one of those that are left, and has to have servers. */
function isThere({ primary, standby }: Replicas, host: Host): boolean {
  return host === primary || (host === standby && host.isWarm);
}

seededTest("two hot hosts and one with the log alone die one after the other", (random) => {
  let unfinished = 0;
  for (let round = 0; round < rounds(20); round++) {
    const replicas = mixed(random, [true, true, false], { chained: true, mayReset: "late" });
    const all = talks(random, replicas, 5);
    runFor(replicas, all, random.integer(60));
    replicas.joinNext();
    all.push(talk(random, replicas, 10000 + all.length));
    replicas.run(() => replicas.isNextWhole);
    runFor(replicas, all, random.integer(30));
    replicas.run(() => replicas.isNextWhole);
    replicas.crash(random.integer(3));
    const { applied } = replicas.primary;
    replicas.run(() => replicas.standby!.applied >= applied);
    runFor(replicas, all, random.integer(30));
    unfinished += all.filter((it) => !isDone(it)).length;
    replicas.crash(random.integer(3));
    replicas.startServers();
    finish(replicas, all);
  }
  ok(unfinished > 0, "all were served before the second host died");
});
