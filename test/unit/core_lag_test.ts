/**
 * core_lag_test.ts - servers that stand still, over two instances of the core
 *
 *   client ── core ── kernel (Endpoint) ── App: reads, thinks, writes; a test stops it
 *
 * An App reads when it runs, so a stopped one's window closes while its kernel acknowledges. Claims,
 * over random kinds of connections, moments and pauses (DESIGN section 6, fifth row):
 *   one side stops     that server is found hanging, on the side it stands at, no sooner than
 *                      `lag_time`; the clients' streams go on and end whole; when it runs again it is
 *                      known to live, and new connections are protected
 *   it goes on         a server that was left, or given up, is known to live by what it says, with no new
 *                      connection, but not by what its kernel had left to say
 *   it is needed       while it works on a connection that nobody follows it is not found, whatever others wait for
 *   anything else      both stop, either stops for less, a client reads nothing or says nothing:
 *                      nobody is found
 *   ends               of a connection that one server has ended, the other that stopped before its close(),
 *                      or is behind, has its time: nobody is found
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import type { Random } from "../net/random.ts";
import type { CoreFinding } from "../../runtime/protocol/judge.ts";
import { encodeReport, isAfter, Leg, Reason } from "./core_driver.ts";
import type { Endpoint } from "./endpoint.ts";
import { type Host, Replicas } from "./replicas.ts";
import { pick, rounds, seededTest } from "./seeded.ts";

const LAG_MS = 500;
const LAG_BYTES = 1 << 20;
const FIN_WAIT_MS = 600;
/** `lag_time` where servers stop for longer than FIN_WAIT_MS, and must not be found hanging; milliseconds. */
const LONG_LAG_MS = 2500;
const ENDINGS = { lagMs: LONG_LAG_MS, finWaitMs: FIN_WAIT_MS };
/** Octets an App's kernel holds for it. */
const BUFFER = 65535;
/** Octets an App writes at a time, and at most reads. */
const PIECE = 3000;

const KINDS = ["download", "upload", "echo"] as const;
/** A client's port whose server is an echo; so is every third one. */
const ECHO_PORT = 40_001;
type Kind = typeof KINDS[number];

/** The program behind one server's end. */
class App {
  stopped = false;
  /** It has yet to come to its close(). */
  keepsOpen = false;
  readonly server: Endpoint;
  readonly #kind: Kind;
  #unread: number[] = [];
  #toWrite = 0;
  #ended = false;

  constructor(server: Endpoint, kind: Kind) {
    this.server = server;
    this.#kind = kind;
    server.window = BUFFER;
    server.onOctets = (octets) => {
      for (const octet of octets) this.#unread.push(octet);
      server.window = BUFFER - this.#unread.length;
    };
    server.onEnd = () => this.#ended = true;
  }

  /** Does a little of what is to be done. */
  run(): void {
    if (this.stopped || this.server.state !== "open") return;
    const read = this.#unread.splice(0, PIECE);
    if (read.length > 0) {
      const wasLow = this.server.window < BUFFER / 2;
      this.server.window = BUFFER - this.#unread.length;
      // As Linux does, when what is read makes much of a difference.
      if (wasLow) this.server.announce();
      if (this.#kind === "echo") this.server.write(Uint8Array.from(read));
      if (this.#kind === "download") this.#toWrite += read.length * 2000;
    }
    const piece = Math.min(PIECE, this.#toWrite);
    if (piece > 0) this.server.write(new Uint8Array(piece).fill(7));
    this.#toWrite -= piece;
    if (this.#ended && !this.keepsOpen && this.#unread.length === 0 && this.#toWrite === 0) {
      this.#ended = false;
      this.server.end();
    }
  }
}

interface WorldOptions {
  /** Without a standby at first. */
  alone?: boolean;
  /** What becomes of a packet on the clients' wire; see replicas.ts. */
  fate?: () => number[];
  lagMs?: number;
  finWaitMs?: number;
}

/** Two hosts, their programs, and what their cores have found. */
class World {
  readonly replicas: Replicas;
  readonly #apps = new Map<Endpoint, App>();
  readonly found: { side: "primary" | "standby"; finding: Omit<CoreFinding, "clientPort"> }[] = [];

  constructor({ alone = false, fate, lagMs = LAG_MS, finWaitMs }: WorldOptions = {}) {
    this.replicas = new Replicas({
      alone,
      fate,
      program: (server, port) => this.#apps.set(server, new App(server, KINDS[port % 3])),
    });
    for (const host of [this.replicas.primary, this.replicas.standby]) {
      host?.driver.core.wasm.setLag(LAG_BYTES, lagMs);
      if (finWaitMs !== undefined) host?.driver.core.wasm.setJudgement(finWaitMs);
    }
  }

  /** The program that serves a client's port. */
  app(host: Host, port: number): App {
    return this.#apps.get(host.servers.get(port)!)!;
  }

  apps(host: Host): App[] {
    return [...host.servers.values()].map((server) => this.#apps.get(server)!);
  }

  step(): void {
    const { replicas } = this;
    for (const side of ["primary", "standby"] as const) {
      const host = replicas[side];
      if (host === null) continue;
      for (const app of this.apps(host)) app.run();
    }
    replicas.run(once(), 40);
    for (const side of ["primary", "standby"] as const) {
      const host = replicas[side];
      if (host !== null) {
        this.found.push(...host.driver.takeFindings().map((f) => ({ side, finding: f })));
      }
    }
  }

  /** Lets time pass; a client, if any, says a little every 20 ms. */
  pass(ms: number, chatty: Endpoint | null = null): void {
    const untilMs = this.replicas.nowMs + ms;
    for (let i = 0; this.replicas.nowMs < untilMs; i++) {
      if (i % 20 === 0) chatty?.write(new Uint8Array(10));
      this.step();
    }
  }

  until(done: () => boolean, what: string, limit = 20000): void {
    for (let i = 0; !done(); i++) {
      if (i === limit) throw new Error(`Waited for ${what}: ${this.replicas.describe()}`);
      this.step();
    }
  }
}

/** True from the second question on. */
function once(): () => boolean {
  let asked = false;
  return () => asked || !(asked = true);
}

interface Talk {
  client: Endpoint;
  kind: Kind;
  request: number;
  answer: number;
}

/** A client that asks for more than buffers on the way hold. */
function talk(world: World, port: number, window = 65535): Talk {
  const kind = KINDS[port % 3];
  const request = kind === "download" ? 100 : 200_000;
  const client = world.replicas.connect(port, { window });
  client.write(new Uint8Array(request).fill(port));
  client.end();
  return { client, kind, request, answer: { download: 200_000, upload: 0, echo: request }[kind] };
}

function talks(world: World, random: Random): Talk[] {
  const count = 1 + random.integer(6);
  return Array.from({ length: count }, (_, i) => talk(world, 40000 + i + random.integer(3)));
}

function finish(world: World, all: Talk[]): void {
  world.until(
    () => all.every(({ client }) => client.ended && client.isDrained),
    "the clients' end",
  );
  for (const { client, answer } of all) strictEqual(client.received.length, answer);
}

function opened(world: World, all: Talk[]): boolean {
  return all.every(({ client }) => client.state === "open") &&
    world.replicas.standby!.servers.size === all.length &&
    [...world.replicas.standby!.servers.values()].every(({ state }) => state === "open");
}

/** Clients of distinct ports, in the midst of what they do. */
function inTheMidst(world: World, random: Random): Talk[] {
  const all = talks(world, random)
    .filter(({ client }, i, list) => list.findIndex((other) => other.client === client) === i);
  const distinct = all.filter(({ client }) =>
    [...world.replicas.clients.values()].includes(client)
  );
  world.until(() => opened(world, distinct), "handshakes");
  const steps = random.integer(20);
  for (let i = 0; i < steps; i++) world.step();
  return distinct;
}

seededTest("a primary's server that stops is found there, and left", (random) => {
  for (let round = 0; round < rounds(10); round++) {
    const world = new World();
    const { replicas } = world;
    const all = inTheMidst(world, random);
    const old = replicas.primary;
    const sinceMs = replicas.nowMs;
    for (const app of world.apps(old)) app.stopped = true;
    world.until(() => world.found.length > 0, "a finding");
    ok(replicas.nowMs - sinceMs >= LAG_MS, `found after ${replicas.nowMs - sinceMs} ms`);
    const [{ side, finding }] = world.found;
    strictEqual(side, "primary");
    ok(/^oursStops(Reading|Writing)$/.test(finding.kind), finding.kind);
    ok(finding.theirs > finding.ours, JSON.stringify(finding));
    ok(finding.waitedMs >= LAG_MS);
    strictEqual(old.driver.core.wasm.hangs(), 1);
    strictEqual(replicas.standby!.driver.core.wasm.hangs(), 0);
    replicas.switchOver();
    finish(world, all);
    strictEqual(old.driver.core.wasm.hangs(), 1, "nothing shows that it lives");
    ok(world.found.every(({ finding: { kind } }) => !/Ended|Refuses/.test(kind)));
  }
});

seededTest(
  "a primary's server that was left goes on, and is known to live by that alone",
  (random) => {
    for (let round = 0; round < rounds(20); round++) {
      const world = new World();
      const { replicas } = world;
      const all = inTheMidst(world, random);
      const old = replicas.primary;
      for (const app of world.apps(old)) app.stopped = true;
      world.until(() => world.found.length > 0, "a finding");
      // Its connections are given up LAG_AGAIN_MS after the hand-over: it goes on before that, or later.
      const beforeMs = random.integer(100);
      const afterMs = random.integer(2 * LAG_MS);
      world.pass(beforeMs);
      replicas.switchOver();
      world.pass(afterMs);
      for (const app of world.apps(old)) app.stopped = false;
      world.until(() => old.driver.core.wasm.hangs() === 0, `life ${afterMs} ms later`, 2000);
      finish(world, all);
      strictEqual(old.driver.core.wasm.hangs(), 0);
    }
  },
);

Deno.test("what a kernel had left to say when its server was given up is no sign of life", () => {
  const world = new World();
  const { replicas } = world;
  const [first, second] = [ECHO_PORT, ECHO_PORT + 3].map((port) => replicas.connect(port));
  const standby = replicas.standby!;
  const { wasm } = standby.driver.core;
  world.until(() => standby.servers.size === 2 && second.state === "open", "handshakes");
  for (const app of world.apps(standby)) app.stopped = true;
  first.write(new Uint8Array(10));
  world.until(() => wasm.hangs() === 1, "the hang to be found");
  const firstMs = replicas.nowMs;
  second.write(new Uint8Array(10));
  world.until(() => standby.driver.field(1, "leg") === Leg.hung, "the other one to be given up");
  ok(replicas.nowMs - firstMs < LAG_MS, "sooner than the first");
  const server = standby.servers.get(ECHO_PORT + 3)!;
  server.write(new Uint8Array(5));
  world.pass(20);
  strictEqual(wasm.hangs(), 1);
  world.pass(LAG_MS);
  strictEqual(wasm.hangs(), 1);
  server.write(new Uint8Array(5));
  world.pass(20);
  strictEqual(wasm.hangs(), 0);
});

for (const struck of ["primary", "standby"] as const) {
  const name = `a ${struck}'s server that stopped before its close() has its time when it goes on`;
  seededTest(name, (random) => {
    for (let round = 0; round < rounds(10); round++) {
      const world = new World({ ...ENDINGS });
      const { replicas } = world;
      const host = replicas[struck]!;
      const ending = replicas.connect(ECHO_PORT);
      // A standby that is silent while ours is may as well be idle.
      const other = replicas.connect(ECHO_PORT + 3);
      const isChatty = struck === "standby" || random.next() < 0.5;
      ending.write(new Uint8Array(100));
      world.until(() => ending.received.length === 100, "an answer");
      world.app(host, ECHO_PORT).keepsOpen = true;
      ending.end();
      world.pass(random.integer(10));
      for (const app of world.apps(host)) app.stopped = true;
      const stoppedMs = FIN_WAIT_MS + 150 + random.integer(LONG_LAG_MS - FIN_WAIT_MS - 300);
      world.pass(stoppedMs, isChatty ? other : null);
      for (const app of world.apps(host)) app.stopped = false;
      world.pass(100 + random.integer(FIN_WAIT_MS - 200), other);
      deepStrictEqual(world.found, [], `${stoppedMs} ms, ${isChatty}`);
      world.app(host, ECHO_PORT).keepsOpen = false;
      world.until(() => ending.ended, "the answer's end", 2000);
      deepStrictEqual(world.found, []);
    }
  });
}

for (const struck of ["primary", "standby"] as const) {
  Deno.test(`a ${struck}'s server that is behind the other's end has its time to come there`, () => {
    const world = new World({ ...ENDINGS });
    const { replicas } = world;
    const host = replicas[struck]!;
    const [ending, other] = [ECHO_PORT, ECHO_PORT + 3].map((port) => replicas.connect(port));
    world.until(() => replicas.standby!.servers.size === 2 && other.state === "open", "handshakes");
    world.app(host, ECHO_PORT).stopped = true;
    ending.write(new Uint8Array(100));
    ending.end();
    world.pass(3 * FIN_WAIT_MS, other);
    deepStrictEqual(world.found, []);
    strictEqual(ending.ended, false);
    world.app(host, ECHO_PORT).stopped = false;
    world.until(() => ending.ended, "the answer's end", 2000);
    strictEqual(ending.received.length, 100);
    world.pass(3 * FIN_WAIT_MS, other);
    deepStrictEqual(world.found, []);
  });
}

Deno.test("no server is blamed for an end that its client has not come to", () => {
  let isCut = false;
  const world = new World({ ...ENDINGS, fate: () => isCut ? [] : [0] });
  const { replicas } = world;
  const ending = replicas.connect(ECHO_PORT);
  ending.write(new Uint8Array(100));
  world.until(() => ending.received.length === 100, "an answer");
  const standby = replicas.standby!;
  world.app(standby, ECHO_PORT).stopped = true;
  ending.write(new Uint8Array(100));
  ending.end();
  world.pass(1);
  isCut = true;
  world.pass(2 * FIN_WAIT_MS + 4 * LONG_LAG_MS);
  deepStrictEqual(world.found, []);
  isCut = false;
  world.app(standby, ECHO_PORT).stopped = false;
  replicas.run(() => {
    for (const host of [replicas.primary, standby]) for (const app of world.apps(host)) app.run();
    return ending.ended;
  });
  strictEqual(ending.received.length, 200);
  deepStrictEqual(standby.driver.takeFindings(), []);
  deepStrictEqual(replicas.primary.driver.takeFindings(), []);
});

Deno.test("a server that works on what nobody follows is not left for one that it leaves waiting", () => {
  const world = new World({ alone: true });
  const { replicas } = world;
  const unfollowed = replicas.connect(ECHO_PORT);
  world.until(() => unfollowed.state === "open", "a handshake");
  replicas.join();
  replicas.standby!.driver.core.wasm.setLag(LAG_BYTES, LAG_MS);
  const followed = replicas.connect(ECHO_PORT + 3);
  const primary = replicas.primary;
  world.until(() => primary.servers.size === 2 && followed.state === "open", "a handshake");
  world.app(primary, ECHO_PORT + 3).stopped = true;
  followed.write(new Uint8Array(10));
  world.pass(4 * LAG_MS, unfollowed);
  strictEqual(world.found.length, 0);
  world.app(primary, ECHO_PORT).stopped = true;
  // Its kernel goes on reading.
  world.pass(2 * LAG_MS, unfollowed);
  const [{ side, finding }] = world.found;
  deepStrictEqual([side, finding.kind], ["primary", "oursStopsWriting"]);
});

seededTest("a standby's server that stops is given up until it runs again", (random) => {
  for (let round = 0; round < rounds(10); round++) {
    const world = new World();
    const { replicas } = world;
    const all = inTheMidst(world, random);
    const standby = replicas.standby!;
    const free = standby.driver.core.wasm.blockOctetsFree;
    for (const app of world.apps(standby)) app.stopped = true;
    world.until(() => world.found.some(({ side }) => side === "primary"), "word of it");
    strictEqual(standby.driver.core.wasm.hangs(), 1);
    for (const { side, finding } of world.found) {
      const pattern = side === "standby" ? /^oursStops(R|W)/ : /^theirsStops(R|W)/;
      ok(pattern.test(finding.kind), `${side}: ${finding.kind}`);
    }
    finish(world, all);
    const states = Array.from(
      { length: standby.driver.core.wasm.highWater() },
      (_, i) => [standby.driver.field(i, "leg"), standby.driver.field(i, "reason")],
    );
    ok(states.some(([leg, reason]) => leg === Leg.hung && reason === Reason.standbyHangs));
    for (const app of world.apps(standby)) app.stopped = false;
    world.until(() => standby.driver.core.wasm.hangs() === 0, "it to be known to live");
    ok(free() > 0);
    world.found.length = 0;
    const fresh = talk(world, 50000);
    finish(world, [fresh]);
    deepStrictEqual(world.found, []);
  }
});

seededTest("a server started anew is known to live by what it writes", (random) => {
  for (let round = 0; round < rounds(5); round++) {
    const world = new World();
    const { replicas } = world;
    const all = inTheMidst(world, random);
    const standby = replicas.standby!;
    for (const app of world.apps(standby)) app.stopped = true;
    world.until(() => standby.driver.core.wasm.hangs() === 1, "it to be found");
    finish(world, all);
    // Its old connections stay as they are; the next one finds another program.
    finish(world, [talk(world, 50_001 + 2)]);
    world.until(() => standby.driver.core.wasm.hangs() === 0, "it to be known to live");
  }
});

seededTest("nobody is found who stops for less, or when both do, or for a client", (random) => {
  for (let round = 0; round < rounds(10); round++) {
    const world = new World();
    const { replicas } = world;
    const all = inTheMidst(world, random);
    const sides: Host[] = [replicas.primary, replicas.standby!];
    for (let pause = 0; pause < 6; pause++) {
      const who = pick(random, ["primary", "standby", "both", "clients"] as const);
      const most = who === "both" || who === "clients" ? 3 * LAG_MS : LAG_MS / 2;
      const untilMs = replicas.nowMs + random.integer(most);
      const stopped = sides.filter((_, i) => who === "both" || who === ["primary", "standby"][i]);
      for (const host of stopped) for (const app of world.apps(host)) app.stopped = true;
      if (who === "clients") { for (const { client } of all) client.window = 0; }
      while (replicas.nowMs < untilMs) world.step();
      for (const host of stopped) for (const app of world.apps(host)) app.stopped = false;
      for (const { client } of all) {
        client.window = 65535;
        client.announce();
      }
      const backMs = replicas.nowMs + LAG_MS / 2;
      while (replicas.nowMs < backMs) world.step();
    }
    finish(world, all);
    deepStrictEqual(world.found, []);
    for (const host of sides) strictEqual(host.driver.core.wasm.hangs(), 0);
  }
});

Deno.test("with commit ack, no server is blamed for an answer to what its client has yet to say again", () => {
  const question = new Uint8Array(1000).fill(7);
  const program = (server: Endpoint) => {
    server.onOctets = (octets) => server.write(octets);
  };
  let isCut = false;
  const fate = () => isCut ? [] : [0];
  const replicas = new Replicas({ program, fate, commit: "ack", keep: 1 << 20 });
  const client = replicas.connect(40000);
  replicas.run(() => client.state === "open" && replicas.keptPorts().length === 1);
  replicas.standby!.lag = Infinity;
  client.write(question);
  replicas.run(() => client.received.length === question.length);
  replicas.crash(Infinity);
  const { primary } = replicas;
  const hasMore = () =>
    isAfter(primary.driver.field(0, "cliAck"), primary.driver.field(0, "sndNxt"));
  replicas.run(hasMore);
  isCut = true;
  replicas.join();
  replicas.standby!.driver.core.wasm.setLag(LAG_BYTES, LAG_MS);
  replicas.run(() => replicas.keptPorts().length === 1);
  for (let i = 0; i < 2 * LAG_MS; i++) replicas.step();
  ok(hasMore(), "its client has said it again");
  for (const { driver } of [primary, replicas.standby!]) deepStrictEqual(driver.takeFindings(), []);
  deepStrictEqual(replicas.keptPorts(), [40000]);
  isCut = false;
  replicas.run(() => client.isDrained && !hasMore());
  strictEqual(client.received.length, question.length);
});

Deno.test("time in which the loop did not run is not the server's", () => {
  const world = new World();
  const { replicas } = world;
  const { client } = talk(world, 40_000 + 1);
  world.until(() => client.received.length > 10_000, "a download");
  for (const app of world.apps(replicas.primary)) app.stopped = true;
  for (let i = 0; i < 3; i++) replicas.wait(10 * LAG_MS);
  world.step();
  deepStrictEqual(world.found, []);
});

Deno.test("a standby's server that is far behind in octets, but only a moment in time, is let be", () => {
  for (const every of [1, 4]) {
    const world = new World();
    const { replicas } = world;
    const { client } = talk(world, 40_000 + 1);
    world.until(() => client.received.length > 0, "a download");
    replicas.standby!.driver.core.wasm.setLag(1000, LAG_MS);
    const [app] = world.apps(replicas.standby!);
    // 3000 octets in a step on the primary; the standby begins 15 steps late, then keeps pace or not.
    let most = 0;
    for (let i = 0; i < 55; i++) {
      app.stopped = i < 15 || i % every !== 0;
      replicas.wait(20);
      world.step();
      const [standby, primary] = [replicas.standby!, replicas.primary].map(({ driver }) =>
        driver.field(0, "sndNxt") - driver.field(0, "iss")
      );
      most = Math.max(most, primary - standby);
    }
    ok(most > 30_000, `${most} octets behind`);
    strictEqual(
      world.found.length > 0,
      every > 1,
      `every ${every}: ${JSON.stringify(world.found)}`,
    );
  }
});

Deno.test("a server whose kernel has lost input on the way is waiting for the client", () => {
  for (const isLost of [true, false]) {
    const world = new World();
    const { replicas } = world;
    const { client } = talk(world, 40_000 + 1);
    world.until(() => client.received.length > 10_000, "a download");
    for (const app of world.apps(replicas.primary)) app.stopped = true;
    for (let i = 0; i < 5; i++) world.step();
    const { driver } = replicas.primary;
    strictEqual(driver.field(0, "legAck"), driver.field(0, "rcvNxt"));
    if (isLost) {
      // As after a segment that reached us, and that our server's kernel had no memory for.
      const { wasm, view, offsets } = driver.core;
      const got = driver.field(0, "legAck");
      view.setUint32(wasm.recordAt(0) + offsets.rcvNxt, got + 1000, true);
      view.setUint32(wasm.recordAt(0) + offsets.legEdge, got + 60_000, true);
    }
    for (let i = 0; i < 10; i++) {
      driver.nowMs += 100;
      replicas.nowMs = driver.nowMs;
      const report = encodeReport(0, driver.field(0, "rcvNxt"), driver.field(0, "legEdge"), {
        read: driver.field(0, "rcvNxt"),
        output: (driver.field(0, "sndNxt") + 5000) >>> 0,
        accepted: true,
      });
      driver.pass({ bodies: [report] });
    }
    deepStrictEqual(
      driver.takeFindings().map(({ kind }) => kind),
      isLost ? [] : Array(3).fill("oursStopsWriting"), // the first, and again LAG_AGAIN_MS later
    );
  }
});

Deno.test("a server that moves, but is more than lag_bytes behind for lag_time, hangs too", () => {
  for (const [lagBytes, expected] of [[1000, true], [1 << 20, false]] as const) {
    const world = new World();
    const { replicas } = world;
    const { client } = talk(world, 40_000 + 1);
    world.until(() => client.received.length > 0, "a download");
    const { driver } = replicas.primary;
    driver.core.wasm.setLag(lagBytes, LAG_MS);
    const irs = driver.field(0, "irs");
    // The standby claims to have read far more of an input that ours goes on to read.
    for (let i = 0; i < 10; i++) {
      driver.nowMs += 100;
      replicas.nowMs = driver.nowMs;
      const report = encodeReport(0, driver.field(0, "rcvNxt"), irs + 100_000, {
        read: (irs + 50_000) >>> 0,
        output: driver.field(0, "sndNxt"),
        accepted: true,
      });
      driver.pass({ bodies: [report] });
    }
    strictEqual(driver.takeFindings().length > 0, expected, `${lagBytes}`);
  }
});
