/**
 * replica_test.ts - who speaks for a service, under every fault that two hosts and a register can have
 *
 * Each transition by itself, with a peer and a register played by the test.
 *
 * Random schedules of faults run in replica_world.ts, which checks after every step that never two
 * may speak, that an epoch belongs to one life of one replica, and that whoever goes on with
 * connections has all that clients were told. Then the faults end, and one primary with one ready
 * standby must come about. A failing schedule prints its own seed.
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import type { BeatService } from "../../runtime/protocol/message.ts";
import { decide, type RegisterValue } from "../../runtime/protocol/register.ts";
import {
  type Effect,
  LOG_WAIT_MS,
  Replica,
  type ReplicaOptions,
  type Verdict,
} from "../../runtime/protocol/replica.ts";
import { Random } from "../net/random.ts";
import { type SimNode, World } from "./replica_world.ts";
import { rounds, seededTest } from "./seeded.ts";

/** Schedules of a usual run. */
const SCHEDULES = 60;
/** Of more than two replicas, each time. */
const CHAIN_SCHEDULES = 30;
const CHAINS = [
  { count: 3, copies: 1 },
  { count: 3, copies: 2 },
  { count: 4, copies: 2 },
  { count: 4, copies: 3 },
];
const CALM_MS = 2500;
const STORM_MS = 6000;
const SETTLE_MS = 8000;
/** With logs on disk the newest one is waited for. */
const LOG_SETTLE_MS = SETTLE_MS + LOG_WAIT_MS;
/**
 * Schedules that found something. 3794425768: a primary that was stopped with its grant was granted
 * the same claim again, beside the claim of the standby that had looked for it meanwhile. 3269151437:
 * who had handed over claimed the service back, as the last beat of the new primary said it was joining.
 */
const REGRESSIONS = [3794425768, 3269151437];
const REGRESSIONS_OF_THREE = [2357762035, 1853555481];
/**
 * With two copies. 3811551769: one that was alone, and stopped, took the echo of a replica that could not have
 * taken over for the word of the one that had.
 */
const REGRESSIONS_OF_THREE_AND_TWO = [3811551769];
/**
 * With three copies. 3464821887: a primary voided its own grant with a claim for other heirs that was not answered.
 * 1424918879: one that gave up what it held was refused by its own later claim, and forgot the epoch.
 */
const REGRESSIONS_OF_FOUR = [3464821887, 1424918879];

Deno.test("one replica becomes primary, the other its ready standby", () => {
  const world = new World(new Random(1));
  world.run(CALM_MS);
  const [a, b] = world.nodes.map(({ replica }) => replica);
  strictEqual(`${a.role} ${b.role}`, "primary standby", "the preferred one is primary");
  ok(a.ready && b.ready && a.maySpeak(world.nowMs) && !b.maySpeak(world.nowMs));
  strictEqual(a.epoch, 1);
});

/** A machine with a clock, whose register and peer the test plays. */
class Driver {
  readonly replica: Replica;
  nowMs = 0;
  /** Everything that was to be done, oldest first. */
  readonly done: Effect[] = [];

  constructor(options: Partial<ReplicaOptions> = {}) {
    this.replica = new Replica({
      service: "web",
      node: "a",
      peers: ["b"],
      prefer: "a",
      heartbeatMs: 10,
      detect: 3,
      epoch: 0,
      token: "a0",
      arbiter: { answerMs: 1000, grantMs: 400, patienceMs: 0 },
      ...options,
    }, 0);
  }

  /** Lets time pass in passes of 5 ms; `beat` is what the peer says at each heartbeat. */
  pass(ms: number, beat?: Partial<BeatService>): Effect[] {
    const first = this.done.length;
    const endMs = this.nowMs + ms;
    while (this.nowMs < endMs) {
      this.nowMs += 5;
      if (beat !== undefined && this.nowMs % 10 === 0) this.hear(beat);
      this.done.push(...this.replica.handleTime(this.nowMs));
    }
    return this.done.slice(first);
  }

  /** The peer says something, and echoes what we sent just now. */
  hear(beat: Partial<BeatService>, token = "b0"): Effect[] {
    const heard = { node: "b", nowMs: this.nowMs, echoedMs: this.nowMs - 1, token };
    const said = { ...BEAT, ...beat };
    return this.note(this.replica.handleBeat(said, heard));
  }

  note(effects: Effect[]): Effect[] {
    this.done.push(...effects);
    return effects;
  }

  /** The newest effect of a kind. */
  last<K extends Effect["kind"]>(kind: K): Effect & { kind: K } {
    const found = this.done.findLast((effect) => effect.kind === kind);
    ok(found !== undefined, `no effect ${kind}`);
    return found as Effect & { kind: K };
  }

  answer(verdict: Record<string, unknown> & { kind: Verdict["kind"] }): Effect[] {
    const { ticket } = this.last("arbitrate");
    return this.note(this.replica.handleVerdict({ ticket, ...verdict } as Verdict, this.nowMs));
  }

  grant(): Effect[] {
    return this.answer({ kind: "granted" });
  }

  /** Primary in epoch 1 with a ready standby. */
  static primary(options: Partial<ReplicaOptions> = {}): Driver {
    const driver = new Driver(options);
    driver.pass(600);
    if (options.arbiter !== null) {
      driver.note(driver.replica.handleProbe(driver.last("probe").ticket, null, driver.nowMs));
      driver.grant();
    }
    strictEqual(driver.replica.role, "primary");
    driver.hear(FOLLOWER);
    driver.replica.handleChannelUp(1);
    driver.hear(FOLLOWER);
    return driver;
  }

  /** Standby that is in step with a primary in epoch 1. */
  static standby(options: Partial<ReplicaOptions> = {}): Driver {
    const driver = new Driver({ prefer: "b", ...options });
    driver.hear(LEADER);
    driver.replica.handleGreeting();
    driver.replica.handleChannelUp(1);
    driver.hear(LEADER);
    strictEqual(driver.replica.ready, true);
    return driver;
  }
}

const BEAT: BeatService = {
  name: "web",
  role: "joining",
  epoch: 0,
  ready: false,
  asking: false,
  voided: 0,
  invites: true,
  counted: 0,
};
const LEADER = { role: "primary", epoch: 1, ready: true } as const;
const FOLLOWER = { role: "standby", epoch: 1, ready: true } as const;

function kinds(effects: Effect[]): string {
  return effects.filter(({ kind }) => kind !== "judgement").map(({ kind }) => kind).join(" ");
}

Deno.test("a first start looks for an owner, asks, and speaks only when granted", () => {
  const driver = new Driver();
  strictEqual(kinds(driver.pass(495)), "", "it listens first");
  strictEqual(kinds(driver.pass(10)), "probe");
  const { ticket } = driver.last("probe");
  driver.note(driver.replica.handleProbe(ticket + 1, null, driver.nowMs));
  strictEqual(driver.replica.arbitration.asking, "start");
  driver.note(driver.replica.handleProbe(ticket, "02:00:00:00:00:01", driver.nowMs));
  strictEqual(kinds(driver.pass(900)), "", "somebody answered: not again for a second");
  strictEqual(kinds(driver.pass(200)), "probe");
  const effects = driver.replica.handleProbe(driver.last("probe").ticket, null, driver.nowMs);
  strictEqual(kinds(driver.note(effects)), "arbitrate");
  ok(driver.replica.asking && !driver.replica.maySpeak(driver.nowMs));
  strictEqual(kinds(driver.grant()), "storeEpoch promote");
  deepStrictEqual([driver.replica.epoch, driver.last("promote").afresh], [1, true]);
  ok(driver.replica.maySpeak(driver.nowMs) && driver.replica.peer.role === null);
});

Deno.test("a first start that loses asks for the epoch after the one it was told", () => {
  const driver = new Driver({ peers: [] });
  driver.pass(5);
  driver.note(driver.replica.handleProbe(driver.last("probe").ticket, null, driver.nowMs));
  driver.answer({ kind: "lost", value: { epoch: 7, owner: "x", token: "x0" } });
  strictEqual(driver.replica.role, "joining");
  driver.pass(100);
  driver.note(driver.replica.handleProbe(driver.last("probe").ticket, null, driver.nowMs));
  const { claim } = driver.last("arbitrate");
  deepStrictEqual([claim.expect, claim.epoch], [7, 8]);
});

Deno.test("a look for an owner that is never answered is begun again", () => {
  const driver = new Driver();
  driver.pass(600);
  const { ticket } = driver.last("probe");
  driver.pass(2500);
  ok(driver.last("probe").ticket > ticket);
});

Deno.test("a standby asks at silence, and takes over in the epoch that is granted", () => {
  const driver = Driver.standby();
  strictEqual(kinds(driver.pass(30)), "");
  strictEqual(kinds(driver.pass(10)), "arbitrate");
  ok(driver.replica.asking && !driver.replica.peerAlive);
  deepStrictEqual(driver.last("arbitrate").claim, {
    expect: 1,
    voids: [{ token: "a0", epoch: 0 }, { token: "b0", epoch: 0 }],
    epoch: 2,
    owner: "a",
    token: "a0",
  });
  strictEqual(kinds(driver.grant()), "storeEpoch promote");
  deepStrictEqual([driver.replica.epoch, driver.last("promote").afresh], [2, false]);
});

Deno.test("a standby that is refused stays one until it has heard the winner and lost it again", () => {
  const driver = Driver.standby();
  driver.pass(40);
  driver.answer({ kind: "lost", value: { epoch: 2, owner: "b", token: "b0" } });
  strictEqual(driver.replica.arbitration.last?.outcome, "lost");
  strictEqual(kinds(driver.pass(400)), "", "no second try at once");
  strictEqual(kinds(driver.pass(200)), "probe", "then as at a first start");
  driver.hear({ ...LEADER, epoch: 2 });
  strictEqual(kinds(driver.pass(40)), "arbitrate", "in step again: the primary counts on us");
  strictEqual(driver.last("arbitrate").claim.expect, 2);
});

Deno.test("an epoch that the primary has claimed in our name is ours to go on from", () => {
  const driver = Driver.standby();
  driver.pass(40);
  driver.answer({ kind: "lost", value: { epoch: 2, owner: "a", token: "b0" } });
  strictEqual(kinds(driver.pass(5)), "arbitrate");
  const { claim } = driver.last("arbitrate");
  deepStrictEqual([claim.epoch, claim.voids.at(-1)], [3, { token: "b0", epoch: 2 }]);
  strictEqual(kinds(driver.grant()), "storeEpoch promote");
});

Deno.test("a standby whose primary went on without it does not take its connections over", () => {
  const driver = Driver.standby();
  driver.hear({ ...LEADER, epoch: 2, ready: false });
  strictEqual(kinds(driver.pass(400)), "", "no hurry");
  strictEqual(kinds(driver.pass(200)), "probe");
  driver.note(driver.replica.handleProbe(driver.last("probe").ticket, null, driver.nowMs));
  driver.grant();
  strictEqual(driver.last("promote").afresh, true);
});

Deno.test("a standby takes over at once from a primary that says it has retired", () => {
  const driver = Driver.standby();
  strictEqual(kinds(driver.pass(10, { role: "retired", epoch: 1 })), "arbitrate");
});

Deno.test("a standby that hears its primary again takes its claim back for good", () => {
  const driver = Driver.standby();
  driver.pass(40);
  driver.hear(LEADER);
  strictEqual(driver.replica.asking, false);
  strictEqual(driver.replica.voided, 2);
  strictEqual(kinds(driver.grant()), "", "a late grant is nothing");
  strictEqual(driver.replica.role, "standby");
  driver.pass(40);
  deepStrictEqual(driver.last("arbitrate").claim.voids[0], { token: "a0", epoch: 2 });
  strictEqual(driver.last("arbitrate").claim.epoch, 3);
});

Deno.test("a grant that is too old is not acted on: the next epoch is asked for", () => {
  const driver = Driver.standby();
  driver.pass(40);
  driver.pass(500);
  strictEqual(kinds(driver.grant()), "arbitrate");
  const { claim } = driver.last("arbitrate");
  deepStrictEqual([claim.epoch, claim.voids[0]], [3, { token: "a0", epoch: 2 }]);
  strictEqual(driver.replica.role, "standby");
  strictEqual(kinds(driver.grant()), "storeEpoch promote");
  strictEqual(driver.replica.epoch, 3);
});

Deno.test("a primary that slept on its grant and who looked for it in vain never both win", () => {
  const before = { epoch: 1, owner: "a", token: "a0", follows: 0 };
  const stopped = () => {
    const driver = Driver.primary();
    driver.pass(40);
    const first = decide(before, driver.last("arbitrate").claim);
    strictEqual(first.granted, true);
    driver.nowMs += 1200;
    strictEqual(kinds(driver.grant()), "arbitrate");
    return { driver, value: first.value, claim: driver.last("arbitrate").claim };
  };
  const peers = {
    expect: 2,
    voids: [{ token: "b0", epoch: 0 }],
    owner: "b",
    token: "b0",
    epoch: 3,
  };

  const first = stopped();
  const own = decide(first.value, first.claim);
  strictEqual(own.granted, true);
  strictEqual(decide(own.value, peers).granted, false, "ours came first");

  const second = stopped();
  const other = decide(second.value, peers);
  strictEqual(other.granted, true);
  const { granted, value } = decide(other.value, second.claim);
  strictEqual(granted, false, "the peer's came first");
  second.driver.answer({ kind: "lost", value });
  strictEqual(second.driver.replica.role, "retired");
});

Deno.test("a claim that is never answered is tried again, more and more slowly", () => {
  const driver = Driver.standby();
  driver.pass(40);
  let count = 0;
  for (let i = 0; i < 40; i++) {
    if (kinds(driver.pass(100)).includes("arbitrate")) count++;
    if (driver.replica.asking) driver.answer({ kind: "unreachable", why: "nobody there" });
  }
  ok(count >= 3 && count <= 10, `${count} in four seconds`);
  strictEqual(driver.replica.arbitration.reachable, false);
  const silent = Driver.standby();
  silent.pass(1200);
  strictEqual(silent.replica.arbitration.last?.detail, "no answer within 1000 ms");
});

Deno.test("a primary that misses its standby is silent until the register lets it hold", () => {
  const driver = Driver.primary();
  driver.pass(100, FOLLOWER);
  ok(driver.replica.maySpeak(driver.nowMs));
  strictEqual(kinds(driver.pass(35)), "arbitrate");
  strictEqual(driver.replica.maySpeak(driver.nowMs), false);
  strictEqual(kinds(driver.grant()), "storeEpoch");
  ok(driver.replica.maySpeak(driver.nowMs));
  strictEqual(driver.replica.epoch, 1, "kept to itself");
  ok(driver.replica.ready && !driver.replica.hasSuccessor, "the standby could not take over now");
  driver.pass(20, FOLLOWER);
  ok(driver.replica.hasSuccessor);
  strictEqual(driver.replica.epoch, 2, "the standby is back, and may follow in it");
});

Deno.test("a beat's copy over another link binds the lease by what it echoes, and says no more", () => {
  const driver = Driver.primary();
  const copies = (said: Partial<BeatService>, token = "b0") => {
    for (let i = 0; i < 10; i++) {
      driver.nowMs += 10;
      const { nowMs } = driver;
      const beat = { ...BEAT, ...said };
      driver.note(
        driver.replica.handleBeat({ ...BEAT, ...FOLLOWER }, {
          node: "b",
          nowMs,
          echoedMs: 0,
          token,
        }),
      );
      driver.replica.handleEcho(beat, { node: "b", echoedMs: nowMs - 1, token });
      driver.done.push(...driver.replica.handleTime(nowMs));
    }
    return driver.replica.maySpeak(driver.nowMs);
  };
  ok(copies(FOLLOWER));
  strictEqual(copies({ ...FOLLOWER, asking: true }), false, "one that asks has given nothing");
  ok(kinds(driver.done).includes("arbitrate"));
});

Deno.test("a primary drops a silent standby on a grant only", () => {
  const driver = Driver.primary();
  driver.pass(400);
  ok(!kinds(driver.done).includes("dropStandby"));
  driver.answer({ kind: "unreachable", why: "nobody there" });
  driver.pass(100);
  driver.grant();
  strictEqual(kinds(driver.pass(50)), "dropStandby");
  ok(driver.replica.epoch > 1 && !driver.replica.ready && driver.replica.maySpeak(driver.nowMs));
});

Deno.test("a primary whose channel broke drops the standby it hears, on a grant", () => {
  const driver = Driver.primary();
  driver.replica.handleChannelDown("broken");
  driver.replica.handleChannelDown("broken again");
  strictEqual(kinds(driver.hear(FOLLOWER)), "arbitrate");
  driver.grant();
  strictEqual(kinds(driver.hear(FOLLOWER)), "dropStandby");
});

Deno.test("a primary that loses retires, and keeps silent until it follows", () => {
  const driver = Driver.primary();
  driver.pass(40);
  const value = { epoch: 2, owner: "b", token: "b0" };
  strictEqual(kinds(driver.answer({ kind: "lost", value })), "silence storeEpoch");
  deepStrictEqual([driver.replica.role, driver.replica.voiceUntilMs], ["retired", -Infinity]);
  strictEqual(kinds(driver.hear({ ...LEADER, epoch: 2 })), "follow");
  const other = Driver.primary();
  other.pass(40);
  other.answer({ kind: "lost", value: null });
  strictEqual(other.replica.role, "retired", "a register that holds nothing, and refuses");
});

Deno.test("of two primaries the older epoch, then the other than the preferred, retires", () => {
  const older = Driver.primary();
  strictEqual(kinds(older.hear({ ...LEADER, epoch: 2 })), "silence storeEpoch");
  const preferred = Driver.primary();
  strictEqual(kinds(preferred.hear(LEADER)), "");
  strictEqual(preferred.replica.role, "primary");
});

Deno.test("a silent primary does not take another life of its peer for its standby", () => {
  const driver = Driver.primary();
  driver.nowMs += 3000;
  driver.hear({ ...BEAT, role: "joining" }, "b1");
  strictEqual(driver.replica.maySpeak(driver.nowMs), false);
  driver.hear(FOLLOWER);
  strictEqual(driver.replica.maySpeak(driver.nowMs), true);
});

Deno.test("a primary alone looks into the register, and believes it", () => {
  const alone = () => {
    const driver = Driver.primary();
    driver.replica.handleChannelDown("broken");
    driver.hear(FOLLOWER);
    driver.grant();
    driver.hear(FOLLOWER);
    driver.pass(1100);
    return driver;
  };
  const { epoch } = alone().replica;
  const look = (value: RegisterValue | null | undefined) => {
    const driver = alone();
    const { ticket } = driver.last("consult");
    driver.note(driver.replica.handleRegister(ticket + 9, null, driver.nowMs));
    const effects = driver.note(driver.replica.handleRegister(ticket, value, driver.nowMs));
    return `${driver.replica.role} ${kinds(effects)}`;
  };
  strictEqual(look({ epoch, owner: "a", token: "a0", follows: 0 }), "primary ");
  strictEqual(look({ epoch: epoch + 1, owner: "a", token: "a0", follows: epoch }), "primary ");
  // Its own claim for a switch, whose verdict is on its way.
  strictEqual(look({ epoch: epoch + 1, owner: "b", token: "a0", follows: epoch }), "primary ");
  strictEqual(look(undefined), "primary ");
  strictEqual(look(null), "primary arbitrate");
  strictEqual(
    look({ epoch: epoch + 1, owner: "b", token: "b1", follows: epoch }),
    "retired silence storeEpoch",
  );
});

Deno.test("a primary on a hold, whose standby is heard but hears nothing, looks into the register", () => {
  const driver = Driver.primary();
  driver.pass(35);
  driver.grant();
  for (let i = 0; i < 110; i++) {
    driver.note(driver.replica.handleBeat({ ...BEAT, ...FOLLOWER }, {
      node: "b",
      nowMs: driver.nowMs,
      echoedMs: null,
      token: "b0",
    }));
    driver.pass(10);
  }
  ok(!kinds(driver.done).includes("dropStandby"));
  const { ticket } = driver.last("consult");
  const value = { epoch: 3, owner: "b", token: "b0", follows: 2 };
  const effects = driver.replica.handleRegister(ticket, value, driver.nowMs);
  strictEqual(kinds(effects), "silence storeEpoch");
  strictEqual(driver.replica.role, "retired");
});

Deno.test("a primary alone asks before it speaks after a long stall of its own", () => {
  const driver = Driver.primary();
  driver.replica.handleChannelDown("broken");
  driver.hear(FOLLOWER);
  driver.grant();
  driver.hear(FOLLOWER);
  driver.nowMs += 450;
  strictEqual(driver.replica.maySpeak(driver.nowMs), false);
  strictEqual(kinds(driver.pass(5)), "arbitrate");
  driver.grant();
  ok(driver.replica.maySpeak(driver.nowMs));
  driver.nowMs += 450;
  driver.pass(5);
  driver.hear({ ...FOLLOWER, epoch: driver.replica.epoch });
  ok(driver.replica.maySpeak(driver.nowMs), "or its peer's echo tells that nobody has taken over");
});

Deno.test("a patient arbiter is asked later, and its grants do not grow old", () => {
  const arbiter = { answerMs: 60_000, grantMs: Infinity, patienceMs: 2000 };
  const driver = Driver.primary({ arbiter });
  ok(!kinds(driver.pass(1900)).includes("arbitrate"));
  ok(kinds(driver.pass(200)).includes("arbitrate"));
  driver.pass(20_000);
  driver.grant();
  ok(driver.replica.maySpeak(driver.nowMs));
});

Deno.test("a switch is registered first, and called off when its standby is lost", () => {
  const driver = Driver.primary();
  strictEqual(kinds(driver.note(driver.replica.requestSwitch(driver.nowMs))), "arbitrate");
  strictEqual(driver.last("arbitrate").claim.owner, "b");
  strictEqual(kinds(driver.replica.requestSwitch(driver.nowMs)), "", "one at a time");
  strictEqual(kinds(driver.grant()), "handOver");
  const { epoch } = driver.last("handOver");
  strictEqual(kinds(driver.replica.handleHandedOver(epoch)), "storeEpoch");
  deepStrictEqual([driver.replica.role, driver.replica.epoch], ["standby", epoch]);

  const lost = Driver.primary();
  lost.note(lost.replica.requestSwitch(lost.nowMs));
  strictEqual(kinds(lost.pass(40)), "keep arbitrate");

  const unheard = Driver.primary();
  unheard.note(unheard.replica.requestSwitch(unheard.nowMs));
  strictEqual(kinds(unheard.answer({ kind: "unreachable", why: "nobody there" })), "keep");
  strictEqual(kinds(unheard.replica.requestSwitch(unheard.nowMs)), "", "too soon");
});

Deno.test("a hand-over is taken by a standby that was awake, in a newer epoch", () => {
  const driver = Driver.standby();
  strictEqual(kinds(driver.replica.handleHandover(1, driver.nowMs)), "", "no newer epoch");
  strictEqual(kinds(driver.replica.handleHandover(2, driver.nowMs + 500)), "", "away meanwhile");
  strictEqual(driver.replica.role, "standby");
  strictEqual(kinds(driver.replica.handleHandover(2, driver.nowMs)), "storeEpoch promote");
  ok(driver.replica.maySpeak(driver.nowMs));
  strictEqual(kinds(driver.replica.handleHandover(3, driver.nowMs)), "", "it is primary already");
});

Deno.test("replicas that hear each other are not without a primary for long", () => {
  const preferred = Driver.standby({ prefer: "a" });
  preferred.replica.handleGreeting();
  ok(!kinds(preferred.pass(900, FOLLOWER)).includes("probe"));
  ok(kinds(preferred.pass(300, FOLLOWER)).includes("probe"));
  const other = Driver.standby();
  other.replica.handleGreeting();
  ok(!kinds(other.pass(2500, FOLLOWER)).includes("probe"));
  ok(kinds(other.pass(800, FOLLOWER)).includes("probe"));
  const joining = new Driver({ prefer: "b" });
  ok(!kinds(joining.pass(2900, {})).includes("probe"));
  ok(kinds(joining.pass(300, {})).includes("probe"));
});

Deno.test("an older primary is nobody to follow", () => {
  const driver = new Driver({ epoch: 5, prefer: "b" });
  strictEqual(kinds(driver.hear({ ...LEADER, epoch: 4 })), "");
  strictEqual(driver.replica.role, "joining");
  strictEqual(kinds(driver.hear({ ...LEADER, epoch: 6 })), "follow");
});

Deno.test("without an arbiter silence is enough, on both sides", () => {
  const standby = Driver.standby({ arbiter: null });
  strictEqual(kinds(standby.pass(45)), "storeEpoch promote");
  strictEqual(standby.replica.voiceUntilMs, Infinity);
  const primary = Driver.primary({ arbiter: null });
  strictEqual(kinds(primary.note(primary.replica.requestSwitch(primary.nowMs))), "handOver");
  strictEqual(kinds(primary.pass(400)), "dropStandby");
  strictEqual(primary.replica.heardMs !== null && primary.replica.voiceUntilMs, Infinity);
  primary.hear({ ...LEADER, epoch: 9 });
  strictEqual(primary.replica.role, "retired");
  strictEqual(kinds(primary.pass(45)), "storeEpoch promote");
  strictEqual(primary.last("promote").afresh, true);
});

Deno.test("without an arbiter too, a stalled primary hears its standby before it speaks", () => {
  const driver = Driver.primary({ arbiter: null });
  driver.nowMs += 200;
  strictEqual(driver.replica.maySpeak(driver.nowMs), false);
  driver.hear(FOLLOWER);
  strictEqual(driver.replica.maySpeak(driver.nowMs), true);
  driver.nowMs += 200;
  driver.pass(5);
  strictEqual(driver.replica.maySpeak(driver.nowMs), false);
  driver.pass(40);
  strictEqual(driver.replica.maySpeak(driver.nowMs), true, "or nobody says otherwise for a while");
});

Deno.test("schedules that once had two voices keep one", () => {
  for (const seed of REGRESSIONS) storm(seed);
});

/** Starts with a log on disk that is whole in `term`, having known of epoch 7. */
function stored(term: number, options: Partial<ReplicaOptions> = {}): Driver {
  const driver = new Driver({ epoch: 7, ...options });
  driver.replica.handleStored(term);
  return driver;
}

Deno.test("a log on disk is gone on from when the register knows of nothing newer than its term", () => {
  const driver = stored(6, { prefer: "b" });
  strictEqual(kinds(driver.pass(990)), "", "the preferred one is listened for");
  strictEqual(kinds(driver.pass(20)), "arbitrate", "nobody needs to be looked for");
  const { claim } = driver.last("arbitrate");
  deepStrictEqual([claim.expect, claim.epoch], [6, 8]);
  driver.grant();
  deepStrictEqual([driver.last("promote").afresh, driver.replica.logTerm], [false, 8]);
});

Deno.test("a log that somebody has gone on without is not gone on from, and the newer one waited for", () => {
  const driver = stored(6);
  driver.pass(510);
  driver.answer({ kind: "lost", value: { epoch: 7, owner: "b", token: "b0" } });
  strictEqual(kinds(driver.pass(LOG_WAIT_MS - 10)), "");
  strictEqual(kinds(driver.pass(20)), "probe", "it is gone for good: as at a first start");
  driver.note(driver.replica.handleProbe(driver.last("probe").ticket, null, driver.nowMs));
  deepStrictEqual(driver.last("arbitrate").claim.expect, 7);
  driver.grant();
  strictEqual(driver.last("promote").afresh, true);
});

Deno.test("who has the newer log is waited for no longer when it is heard doing nothing", () => {
  const driver = stored(6);
  driver.pass(510);
  driver.answer({ kind: "lost", value: { epoch: 7, owner: "b", token: "b0" } });
  strictEqual(kinds(driver.pass(5900, { role: "joining", epoch: 7 })), "");
  strictEqual(kinds(driver.pass(200, { role: "joining", epoch: 7 })), "probe");
});

Deno.test("without a log to go on from, a start is granted at once only where nobody ever was", () => {
  const driver = stored(0);
  driver.pass(510);
  driver.note(driver.replica.handleProbe(driver.last("probe").ticket, null, driver.nowMs));
  strictEqual(driver.last("arbitrate").claim.expect, 0, "not the epoch that it has known");
  driver.answer({ kind: "lost", value: { epoch: 7, owner: "b", token: "b0" } });
  strictEqual(kinds(driver.pass(1000)), "");
});

Deno.test("a grant that our former life did not live to see is given up for our log", () => {
  const driver = stored(6);
  driver.pass(510);
  driver.answer({ kind: "lost", value: { epoch: 7, owner: "a", token: "former", follows: 6 } });
  strictEqual(kinds(driver.pass(5)), "arbitrate");
  const { claim } = driver.last("arbitrate");
  deepStrictEqual([claim.expect, claim.voids.at(-1)], [6, { token: "former", epoch: 7 }]);
  driver.answer({ kind: "lost", value: { epoch: 7, owner: "a", token: "former", follows: 7 } });
  strictEqual(kinds(driver.pass(100)), "", "that life had gone on, and its log has not");
});

Deno.test("a log says the term it is whole in: at a standby once it was told everything", () => {
  const driver = Driver.standby();
  driver.replica.handleStored(0);
  strictEqual(driver.replica.logTerm, null);
  driver.hear(LEADER);
  driver.replica.handleGreeting();
  driver.replica.handleChannelUp(1);
  strictEqual(driver.replica.logTerm, 0);
  driver.replica.handleWhole();
  strictEqual(driver.replica.logTerm, 1);
  driver.hear({ ...LEADER, epoch: 2 });
  strictEqual(driver.replica.logTerm, 2, "the primary counts on us still");
  driver.hear({ ...LEADER, epoch: 3, ready: false });
  strictEqual(driver.replica.logTerm, null, "it does not: nothing new is said");
  driver.replica.handleGreeting();
  driver.replica.handleChannelUp(3);
  strictEqual(driver.replica.logTerm, 0, "told anew, not everything yet");
});

Deno.test("a primary's log says the term of a grant too that is kept to ourselves", () => {
  const driver = Driver.primary();
  driver.replica.handleChannelDown("broken");
  driver.pass(10, FOLLOWER);
  driver.grant();
  strictEqual(driver.replica.logTerm, 2);
});

seededTest("two replicas and a register keep one voice under random faults", (random) => {
  let takeovers = 0;
  for (let i = 0; i < rounds(SCHEDULES); i++) takeovers += storm(random.seed());
  ok(takeovers > 0, "no standby ever took over: the schedules test nothing");
});

for (const { count, copies } of CHAINS) {
  const name = `${count} replicas with ${copies} copies keep one voice under random faults`;
  seededTest(name, (random) => {
    let takeovers = 0;
    const schedules = rounds(CHAIN_SCHEDULES);
    for (let i = 0; i < schedules; i++) takeovers += storm(random.seed(), count, copies);
    ok(takeovers > 0, "no standby ever took over: the schedules test nothing");
  });
}

Deno.test("schedules of more replicas that once had two voices keep one", () => {
  for (const seed of REGRESSIONS_OF_THREE) storm(seed, 3);
  for (const seed of REGRESSIONS_OF_THREE_AND_TWO) storm(seed, 3, 2);
  for (const seed of REGRESSIONS_OF_FOUR) storm(seed, 4, 3);
});

/** A chain in calm weather, by its names. */
function calm(count: number, copies: number): { world: World; chain: string[] } {
  const world = new World(new Random(7), { count, copies });
  world.run(CALM_MS);
  world.settle(SETTLE_MS);
  const [{ name, chain, channel }] = world.nodes.filter((n) => n.replica.role === "primary");
  const further = chain.names.map(({ node }) => node);
  return { world, chain: [name, channel!.peer.name, ...further] };
}

Deno.test("each replica of a chain goes on when all before it are gone at one moment", () => {
  for (const count of [3, 4]) {
    const { world, chain } = calm(count, count - 1);
    strictEqual(chain.length, count);
    const last = chain.pop()!;
    for (const name of chain) world.crash(world.node(name));
    world.run(100);
    strictEqual(world.node(last).replica.role, "primary");
    strictEqual(world.takeovers, 1);
    strictEqual(world.afresh, 1, "the first start alone");
  }
});

Deno.test("one further down leaves it to who comes before it, and is its standby then", () => {
  for (const copies of [1, 2]) {
    const { world, chain: [first, second, third] } = calm(3, copies);
    const { epoch } = world.node(first).replica;
    world.crash(world.node(first));
    world.run(100);
    const { replica } = world.node(second);
    deepStrictEqual([replica.role, replica.partner, replica.ready], ["primary", third, true]);
    strictEqual(world.node(third).replica.ready, true);
    ok(replica.counted(third) !== 0, "it could follow");
    ok(replica.epoch > epoch);
    world.crash(world.node(second));
    world.run(100);
    strictEqual(world.node(third).replica.role, "primary");
    deepStrictEqual([world.takeovers, world.afresh], [2, 1]);
  }
});

Deno.test("with one copy, nobody goes on when both who have it are gone", () => {
  const { world, chain: [first, second, third] } = calm(3, 1);
  world.crash(world.node(first));
  world.crash(world.node(second));
  world.run(5000);
  strictEqual(world.node(third).replica.role, "standby");
  strictEqual(world.takeovers, 0);
});

Deno.test("an heir that is cut off is dropped by a claim, and counts again when it is heard", () => {
  const { world, chain: [first, , third] } = calm(3, 2);
  const { replica } = world.node(first);
  strictEqual(replica.keepers.length, 2);
  for (const way of [first + third, third + first]) world.cuts.add(way);
  world.run(150);
  strictEqual(replica.role, "primary");
  ok(replica.maySpeak(world.nowMs));
  strictEqual(replica.counted(third), 0);
  strictEqual(replica.hasSuccessor, true);
  world.settle(SETTLE_MS);
  ok(replica.counted(third) !== 0);
  strictEqual(world.takeovers, 0);
});

seededTest("two replicas with logs on disk keep one voice and all that was let out", (random) => {
  let takeovers = 0;
  for (let i = 0; i < rounds(SCHEDULES); i++) takeovers += storm(random.seed(), 2, 1, true);
  ok(takeovers > 0, "no replica ever went on: the schedules test nothing");
});

seededTest(
  "of two replicas that both die, whichever comes back goes on from its disk",
  (random) => {
    for (let i = 0; i < rounds(SCHEDULES); i++) {
      const seed = random.seed();
      const world = new World(new Random(seed), { durable: true });
      try {
        bothDie(world);
      } catch (error) {
        throw new Error(`failing schedule: ${seed}`, { cause: error });
      }
    }
  },
);

/**
 * Both crash and start again, several times; nothing else happens to them. A primary may die again before its log,
 * which it was still being told when it took over, is whole in any term: then nobody has what it went on with.
 */
function bothDie(world: World): void {
  const { random } = world;
  let untold = 0;
  const crash = (node: SimNode) => {
    const { role } = node.replica;
    world.crash(node);
    if (role === "primary" && node.disk!.durable.term === 0) untold++;
  };
  world.run(CALM_MS);
  for (let deaths = 1 + random.integer(3); deaths > 0; deaths--) {
    const [first, second] = random.next() < 0.5 ? world.nodes : world.nodes.toReversed();
    crash(first);
    // The other one may have gone on alone meanwhile, so that only its log will do.
    world.run(random.next() < 0.5 ? random.next() * 20 : random.next() * 1500);
    crash(second);
    const [early, late] = random.next() < 0.5 ? [first, second] : [second, first];
    world.run(random.next() * 1000);
    world.restart(early);
    world.run(random.next() ** 2 * 20_000);
    world.restart(late);
    world.settle(LOG_SETTLE_MS);
    world.run(random.next() * 1000);
  }
  ok(
    world.afresh >= 1 && world.afresh <= 1 + untold,
    `${world.afresh} started afresh, though there was a log`,
  );
}

/** One schedule; returns how often connections were taken over. */
function storm(seed: number, count = 2, copies = 1, durable = false): number {
  const random = new Random(seed);
  const world = new World(random, { count, copies, durable });
  try {
    world.run(CALM_MS);
    world.weather = {
      lossRatio: random.next() < 0.5 ? 0 : random.next() * 0.5,
      delayMsMax: random.next() < 0.5 ? 1 : 40,
      passMsMax: random.next() < 0.5 ? 3 : 30,
    };
    let nextMs = world.nowMs;
    world.run(STORM_MS, () => {
      if (world.nowMs < nextMs) return;
      nextMs = world.nowMs + random.next() ** 2 * 800;
      makeFault(world, random);
    });
    world.settle(durable ? LOG_SETTLE_MS : SETTLE_MS);
  } catch (error) {
    throw new Error(`failing schedule: ${seed} of ${count} replicas, ${copies} copies`, {
      cause: error,
    });
  }
  return world.takeovers;
}

function makeFault(world: World, random: Random): void {
  const { cuts, nodes } = world;
  const node = nodes[random.integer(nodes.length)];
  const kind = random.integer(9);
  // Any two of more than two.
  const left = nodes.slice();
  if (nodes.length > 2) left.splice(random.integer(nodes.length), 1);
  const [there, back] = [`${left[0].name}${left[1].name}`, `${left[1].name}${left[0].name}`];
  switch (kind) {
    case 0:
      return world.crash(node);
    case 1:
      for (const each of nodes) world.restart(each);
      return;
    case 2:
      return world.pause(node, random.next() ** 3 * 3000);
    case 3:
      cuts.add(random.next() < 0.5 ? there : back);
      return;
    case 4:
      cuts.add(there);
      cuts.add(back);
      return;
    case 5:
      cuts.delete(there);
      cuts.delete(back);
      return;
    case 6:
      cuts.add(node.name);
      return;
    case 7:
      return cuts.clear();
    case 8:
      return world.requestSwitch();
  }
}
