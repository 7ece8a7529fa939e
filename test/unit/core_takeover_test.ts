/**
 * core_takeover_test.ts - whole connections over two instances, through crashes and planned switches
 *
 * The claims are Holdfast's own (DESIGN section 1): every client reads exactly what one healthy server
 * would have sent, every server has read exactly what its client wrote (P1), nobody but the primary
 * speaks (P3), no end comes early (P4). Loss, duplication and reordering on the clients' wire,
 * differing window scales, numbers next to the wrap, and moments are random; the seed is printed.
 */
import { strictEqual } from "node:assert/strict";
import { readCounters } from "../../runtime/core.ts";
import { Driver, encodeOpen, fromClient, openOf } from "./core_driver.ts";
import type { Endpoint } from "./endpoint.ts";
import { type Host, Replicas } from "./replicas.ts";
import { rounds, seededTest } from "./seeded.ts";
import { allDone, check, checkEmpty, isDone, KIND, program, randomOptions, talk } from "./talks.ts";
import { buildPacket, TcpFlag } from "./twin.ts";

seededTest("without a fault every connection is served and every record goes", (random) => {
  for (let round = 0; round < rounds(6); round++) {
    const replicas = new Replicas(randomOptions(random));
    const free = replicas.primary.driver.core.wasm.blockOctetsFree();
    const talks = Array.from({ length: 6 }, (_, i) => talk(random, replicas, 10000 + i));
    replicas.run(() => allDone(replicas, talks));
    check(replicas, talks);
    checkEmpty(replicas);
    for (const host of [replicas.primary, replicas.standby]) {
      strictEqual(host?.driver.core.wasm.blockOctetsFree(), free);
    }
  }
});

seededTest("a crash at any moment: no octet lost, repeated or changed, and no reset", (random) => {
  for (let round = 0; round < rounds(25); round++) {
    const replicas = new Replicas(randomOptions(random));
    const talks = Array.from({ length: 5 }, (_, i) => talk(random, replicas, 10000 + i));
    const moment = random.integer(120);
    let steps = 0;
    replicas.run(() => talks.every(isDone) || steps++ >= moment);
    if (replicas.standby !== null) replicas.standby.lag = random.integer(4);
    replicas.crash(random.integer(3));
    replicas.run(() => allDone(replicas, talks));
    check(replicas, talks);
    checkEmpty(replicas);
  }
});

seededTest("the clock that clients see never goes back: pauses, stalls, switches", (random) => {
  for (let round = 0; round < rounds(60); round++) {
    const replicas = new Replicas({ ...randomOptions(random), fate: undefined });
    const clients: Endpoint[] = [];
    let written = 1;
    const allEven = () => clients.every(({ received }) => received.length === written);
    for (let change = 0; change < 3; change++) {
      for (let pause = 0; pause < 3; pause++) {
        replicas.wait(random.integer(400));
        if (replicas.standby !== null) replicas.standby.lag = random.integer(100);
        if (clients.length === 0) clients.push(replicas.connect(10000), replicas.connect(10001));
        else written++;
        for (const client of clients) client.write(Uint8Array.of(KIND.echo));
        let steps = random.integer(8);
        replicas.run(() => steps-- <= 0);
        if (random.next() < 0.7) replicas.run(allEven);
      }
      if (change < 2 && random.next() < 0.5) replicas.switchOver();
    }
    replicas.crash(random.integer(4));
    replicas.run(allEven);
    for (const { oldStamps } of clients) strictEqual(oldStamps, 0);
  }
});

seededTest(
  "planned switches to and fro, then a crash: no octet lost, repeated or changed",
  (random) => {
    for (let round = 0; round < rounds(15); round++) {
      const replicas = new Replicas(randomOptions(random));
      const talks = Array.from({ length: 5 }, (_, i) => talk(random, replicas, 10000 + i));
      for (let change = 0; change < 4; change++) {
        let steps = random.integer(40);
        replicas.run(() => talks.every(isDone) || steps-- <= 0);
        if (change === 3) replicas.crash();
        else replicas.switchOver();
      }
      replicas.run(() => allDone(replicas, talks));
      check(replicas, talks);
      checkEmpty(replicas);
    }
  },
);

Deno.test("a client's FIN that comes before its last octets reaches both servers through switches", () => {
  // The segment before the FIN is late, and roles change once while it is missing and once it is there.
  let untilLate = Infinity;
  const replicas = new Replicas({ program, fate: () => [untilLate-- === 0 ? 2 : 0] });
  const client = replicas.connect(10000);
  const request = new Uint8Array(2000).fill(1);
  request[0] = KIND.upload;
  client.write(request);
  client.end();
  const hasAll = (host: Host | null) =>
    host?.servers.get(10000)?.received.length === request.length;
  replicas.run(() => client.state === "open");
  replicas.switchOver();
  untilLate = 1;
  replicas.run(() => hasAll(replicas.primary));
  replicas.switchOver();
  replicas.run(() => client.ended && client.isDrained);
  for (const { servers } of [replicas.primary, replicas.standby!]) {
    strictEqual(servers.get(10000)?.ended, true);
  }
});

Deno.test("a new primary has room for as many connections as there are records, and uses none twice", () => {
  const driver = new Driver({ capacity: 5 });
  const { wasm } = driver.core;
  // Where its primary had them: a record before the second one was free again.
  const bodies = [0, 2].map((index) => {
    return encodeOpen(index, openOf({ clientPort: 40_001 + index }));
  });
  driver.pass({ bodies });
  wasm.promote(0);
  const held = wasm.recordsUsed();
  const syn = (sourcePort: number) =>
    buildPacket(fromClient({ sourcePort, seq: 1, ack: 0, flags: TcpFlag.syn }));
  driver.pass({ net: [50_001, 50_002, 50_003, 50_004, 50_005, 50_006, 50_007].map(syn) });
  strictEqual(wasm.recordsUsed(), 5);
  strictEqual(readCounters(driver.core).tableFull, 7 - (5 - held));
});
