/**
 * disk_log_test.ts - a log on disk that grows, fills its disk or cannot be written, with real cores
 *
 * core_replay_test.ts shows that nothing is lost; here is what happens at the bounds.
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { REJOIN_MS } from "../../runtime/log_store/disk_log.ts";
import { Entry, newRing, Ring, type RingEntry } from "../../runtime/log_store/ring.ts";
import { Random } from "../net/random.ts";
import { Driver, Reason } from "./core_driver.ts";
import { DiskHost } from "./disk_host.ts";
import type { Endpoint } from "./endpoint.ts";
import { Replicas } from "./replicas.ts";
import { randomOctets, seededTest } from "./seeded.ts";

const LOG_LIMIT = 1 << 18;
const SEGMENT_OCTETS = 20_000;

/** A server that only reads. */
const readAll = { program: (server: Endpoint) => void (server.onEnd = () => server.end()) };

function site(random: Random, options: { holds?: boolean; slackOctets?: number } = {}) {
  const disk = new DiskHost({
    random,
    segmentOctets: SEGMENT_OCTETS,
    logLimit: LOG_LIMIT,
    isBusy: () => false,
    ...options,
  });
  const log = { holds: false };
  const replicas = new Replicas({ ...readAll, log, logLimit: LOG_LIMIT, alone: true, disk });
  return { disk, replicas };
}

/** A client that uploads; with `ends` it also closes. */
function upload(replicas: Replicas, port: number, octets: Uint8Array, ends = true): Endpoint {
  const client = replicas.connect(port);
  client.write(octets);
  if (ends) client.end();
  return client;
}

seededTest("segments go when the connections that began in them are gone", (random) => {
  const { disk, replicas } = site(random);
  const octets = randomOctets(random, 60_000);
  for (let port = 10000; port < 10010; port++) {
    const client = upload(replicas, port, octets);
    replicas.run(() => client.ended && client.isDrained);
    replicas.wait(6000); // its record lingers
  }
  const { segments, state } = disk.log.status();
  strictEqual(state, "storing");
  ok(segments <= 5, `${segments} segments are left of some 30`);
  strictEqual(disk.files.list().length, segments);
});

seededTest(
  "a connection that lives for long is told again, so that old segments can go",
  (random) => {
    const { disk, replicas } = site(random, { slackOctets: 4 * SEGMENT_OCTETS });
    const said = randomOctets(random, 50_000);
    const lasting = upload(replicas, 9999, said, false);
    replicas.run(() => lasting.isDrained);
    for (let port = 10000; port < 10020; port++) {
      const client = upload(replicas, port, randomOctets(random, 60_000));
      replicas.run(() => client.ended && client.isDrained);
      replicas.wait(6000);
    }
    const { segments } = disk.log.status();
    ok(segments <= 16, `${segments} segments are left of some 60`);
    replicas.startAgain("power", { awayMs: 1000, calls: Infinity });
    replicas.startServers();
    const more = randomOctets(random, 5000);
    lasting.write(more);
    lasting.end();
    replicas.run(() => lasting.ended && lasting.isDrained);
    const { received } = replicas.primary.servers.get(9999)!;
    deepStrictEqual(received, Uint8Array.of(...said, ...more));
  },
);

seededTest("a log needs no more memory when it is read than when it was written", (random) => {
  const { replicas } = site(random);
  const free = () => replicas.primary.driver.core.wasm.blockOctetsFree();
  const all = free();
  for (let port = 10000; port < 10004; port++) {
    const client = upload(replicas, port, randomOctets(random, 100_000));
    replicas.run(() => client.ended && client.isDrained);
  }
  // The last ACK is on its way, and nobody waits for the last message to be durable.
  for (let i = 0; i < 4; i++) replicas.wait(100);
  // Their records linger here, without their logs.
  const lingering = replicas.primary.driver.core.wasm.recordsUsed();
  replicas.startAgain("power", { awayMs: 0, calls: Infinity });
  deepStrictEqual([lingering, free()], [4, all]);
});

seededTest(
  "a full disk leaves connections unprotected, and all are logged anew later",
  (random) => {
    const { disk, replicas } = site(random);
    const octets = randomOctets(random, 60_000);
    const client = upload(replicas, 10000, octets, false);
    replicas.run(() => client.isDrained);
    disk.files.capacity = 70_000;
    const second = upload(replicas, 10001, octets, false);
    replicas.run(() => second.isDrained);
    const { driver } = replicas.primary;
    strictEqual(disk.log.status().state, "lost");
    deepStrictEqual(disk.warnings, ["log given up"]);
    deepStrictEqual(disk.files.list(), [], "a later start would go on from an old state");
    for (const index of [0, 1]) strictEqual(driver.field(index, "reason"), Reason.storeLost);
    disk.files.capacity = Infinity;
    for (let i = 0; i < 3; i++) replicas.wait(REJOIN_MS);
    strictEqual(disk.log.status().state, "storing");
    const third = upload(replicas, 10002, octets, false);
    replicas.run(() => third.isDrained);
    for (const index of [0, 1, 2]) strictEqual(driver.field(index, "reason"), Reason.none);
    replicas.startAgain("power", { awayMs: 100, calls: Infinity });
    strictEqual(replicas.primary.driver.core.wasm.recordsUsed(), 3);
    replicas.startServers();
    for (const each of [client, second, third]) each.end();
    replicas.run(() => [client, second, third].every((each) => each.ended && each.isDrained));
    for (const port of [10000, 10001, 10002]) {
      deepStrictEqual(replicas.primary.servers.get(port)!.received, octets);
    }
  },
);

seededTest('with log.full = "hold" clients wait until a full disk has room', (random) => {
  const { disk, replicas } = site(random, { holds: true });
  disk.files.capacity = 30_000;
  const octets = randomOctets(random, 60_000);
  const client = upload(replicas, 10000, octets);
  for (let i = 0; i < 100; i++) replicas.wait(100);
  strictEqual(disk.log.status().state, "full");
  strictEqual(client.isDrained, false);
  disk.files.capacity = Infinity;
  replicas.run(() => client.ended && client.isDrained);
  strictEqual(disk.log.status().state, "storing");
  deepStrictEqual(disk.warnings, ["disk full, clients wait", "disk takes the log again"]);
  deepStrictEqual(replicas.primary.servers.get(10000)!.received, octets);
});

Deno.test("a ring gives back what was put, in order, around its end and when it is full", () => {
  const buffer = newRing(4096);
  const [near, far] = [new Ring(buffer, -1), new Ring(buffer, -1)];
  const entry = (seq: number): RingEntry => ({
    kind: Entry.message,
    seq,
    epoch: 7,
    segment: seq >>> 3,
    urgent: seq % 2 === 0,
    wallMs: seq * 1.5,
    body: new Uint8Array((seq * 37) % 900).fill(seq),
  });
  let put = 0;
  let taken = 0;
  let refused = 0;
  for (let i = 0; i < 3000; i++) {
    if (i % 7 < 4) {
      if (near.put(entry(put))) put++;
      else refused++;
    } else {
      const found = far.peek();
      if (found === null) continue;
      deepStrictEqual({ ...found, body: new Uint8Array(found.body) }, entry(taken));
      far.take(found);
      taken++;
    }
  }
  ok(
    refused > 0 && taken > 500 && put - taken < 20,
    `${put} put, ${taken} taken, ${refused} refused`,
  );
  while (far.peek() !== null) far.take(far.peek()!);
  deepStrictEqual([near.waiting, near.isCongested], [0, false]);
});

Deno.test("a log that is whole in a term is thrown away before somebody joins again with nothing", () => {
  const random = new Random(1);
  const options = { segmentOctets: SEGMENT_OCTETS, logLimit: LOG_LIMIT, isBusy: () => false };
  const host = new DiskHost({ random, ...options });
  /** What another start would find. */
  const term = () => {
    const other = new DiskHost({ random, ...options });
    other.files = host.files.afterKill();
    return other.start(new Driver(), 0).term;
  };
  host.start(new Driver(), 0);
  host.log.beginAnew();
  strictEqual(host.log.isClear, false, "not durable yet");
  while (host.after());
  strictEqual(host.log.isClear, true);
  host.log.noteForgotten();
  host.log.setTerm(7);
  while (host.after());
  strictEqual(term(), 7);
  host.log.beginAnew();
  strictEqual(host.log.isClear, false, "what it says of the term is still there");
  while (host.after());
  deepStrictEqual([host.log.isClear, term()], [true, 0]);
});
