/**
 * core_chain_test.ts - a third replica holds what the standby holds, and goes on from it
 *
 * The standby hands on what it is told, and of what the third one says it notes what that could go on from. The
 * claims are those of core_takeover_test.ts: every client reads what one healthy server would have said.
 */
import { ok, strictEqual } from "node:assert/strict";
import { Driver, encodeOpen, openOf } from "./core_driver.ts";
import { Replicas, type ReplicasOptions } from "./replicas.ts";
import { pick, rounds, seededTest } from "./seeded.ts";
import { check, checkOctets, isDone, PACES, randomOptions, runFor, talk } from "./talks.ts";
import type { Random } from "../net/random.ts";

/** More than any of the clients says. */
const ALL = 1 << 20;

/** A chain of three, in the midst of its traffic. */
function chainOf(random: Random, options: Partial<ReplicasOptions>) {
  const tellOctets = pick(random, PACES);
  const replicas = new Replicas({
    ...randomOptions(random),
    chained: true,
    keep: ALL,
    tellOctets,
    ...options,
  });
  const talks = Array.from({ length: 5 }, (_, i) => talk(random, replicas, 10000 + i));
  runFor(replicas, talks, random.integer(60));
  replicas.joinNext();
  talks.push(talk(random, replicas, 10000 + talks.length));
  runFor(replicas, talks, random.integer(20));
  return { replicas, talks };
}

seededTest("hosts die down to the last of three, and nobody is told anything again", (random) => {
  let unfinished = 0;
  for (let round = 0; round < rounds(15); round++) {
    const { replicas, talks } = chainOf(random, { mayReset: "late" });
    replicas.run(() => replicas.isNextWhole);
    runFor(replicas, talks, random.integer(30));
    replicas.run(() => replicas.isNextWhole);
    const kept = replicas.keptPorts();
    replicas.crash(random.integer(3));
    for (const port of kept) {
      const isOver = isDone(talks[port - 10000]);
      ok(isOver || replicas.keptPorts().includes(port), `${port} is not protected now`);
    }
    // The third one has confirmed what was on its way to it: from now on it could go on.
    const { applied } = replicas.primary;
    replicas.run(() => replicas.standby!.applied >= applied);
    runFor(replicas, talks, random.integer(30));
    unfinished += talks.filter((it) => !isDone(it)).length;
    replicas.crash(random.integer(3));
    replicas.run(() => talks.every(isDone));
    for (const { client, port, expected } of talks) {
      checkOctets(client.received, expected, `client ${port}`);
    }
  }
  ok(unfinished > 0, "all were served before the second host died");
});

seededTest("with two copies, primary and standby may die at one moment", (random) => {
  let unfinished = 0;
  for (let round = 0; round < rounds(15); round++) {
    const { replicas, talks } = chainOf(random, { copies: 2, commit: "strict", mayReset: "late" });
    replicas.run(() => replicas.isNextWhole);
    talks.push(talk(random, replicas, 10000 + talks.length));
    runFor(replicas, talks, random.integer(40));
    unfinished += talks.filter((it) => !isDone(it)).length;
    replicas.crashBoth(random.integer(3));
    replicas.run(() => talks.every(isDone));
    for (const { client, port, expected } of talks) {
      checkOctets(client.received, expected, `client ${port}`);
    }
  }
  ok(unfinished > 0, "all were served before the hosts died");
});

seededTest("in log mode likewise, with a server that is started for it", (random) => {
  for (let round = 0; round < rounds(20); round++) {
    const copies = pick(random, [1, 2] as const);
    const log = { holds: false };
    const options = { copies, commit: "strict", logLimit: ALL, log, mayReset: "late" } as const;
    const { replicas, talks } = chainOf(random, options);
    replicas.run(() => replicas.isNextWhole);
    runFor(replicas, talks, random.integer(30));
    if (copies === 2) replicas.crashBoth(random.integer(3));
    else {
      replicas.crash(random.integer(3));
      replicas.startServers();
      const { applied } = replicas.primary;
      replicas.run(() => replicas.standby!.applied >= applied);
      runFor(replicas, talks, random.integer(30));
      replicas.crash(random.integer(3));
    }
    replicas.startServers();
    replicas.run(() => talks.every(isDone));
    for (const { client, port, expected } of talks) {
      checkOctets(client.received, expected, `client ${port}`);
    }
  }
});

seededTest("a third replica that comes and goes changes nothing for anybody else", (random) => {
  for (let round = 0; round < rounds(20); round++) {
    const { replicas, talks } = chainOf(random, {});
    const kept = replicas.keptPorts();
    runFor(replicas, talks, random.integer(30));
    replicas.next = null;
    replicas.standby!.driver.core.wasm.loseNext();
    for (const port of kept) {
      if (!isDone(talks[port - 10000])) ok(replicas.keptPorts().includes(port), `${port}`);
    }
    replicas.run(() => talks.every(isDone));
    check(replicas, talks);
  }
});

Deno.test("what is no report is refused from who follows, and changes nothing", () => {
  const driver = new Driver();
  const { wasm } = driver.core;
  wasm.setRole(1);
  const open = encodeOpen(0, openOf({ clientPort: 10000, irs: 1000, iss: 5000 }));
  const at = wasm.inbox(1);
  driver.core.bytes.set(open, at);
  strictEqual(wasm.applyNext(at, open.length), 1);
  strictEqual(wasm.recordsUsed(), 0);
  for (let length = 1; length < 28; length++) {
    driver.core.bytes.fill(0, at, at + 28);
    driver.core.bytes[at] = 5;
    strictEqual(wasm.applyNext(at, length), 1, `a report of ${length} octets`);
  }
  strictEqual(wasm.applyNext(at, 28), 0, "of a record that is not in use");
});
