/**
 * schedule.ts - one schedule of clients and faults: all of it follows from the seed
 *
 * Theory of operation
 * Three kinds, by the seed: a calm run, where nothing fails; one single failure, after which no
 * connection at all may be lost (DESIGN 1); and storms, where faults pile up and connections may be
 * lost, but only with an excuse. Every kind ends with all faults mended and all checkers asked.
 */
import { Random } from "../net/random.ts";
import type { SimHost } from "./host.ts";
import { type Kind, type Outcome, World } from "./world.ts";

/** Until both hosts have their roles. */
const CALM_MS = 1500;
const STORM_MS = 5000;
/** After everything is mended, connections have so long to end. */
const MEND_MS = 60_000;
/** Roles have so long; then records of ended connections have gone too, here and there (LINGER_MS). */
const QUIET_MS = 14_000;
/** Share of schedules that wait for that; the others wait for the roles alone, and SETTLED_MS more. */
const QUIET_RATIO = 0.15;
const SETTLED_MS = 500;
const CLIENTS_MAX = 10;
/** Steps of a pass where a strike is worth aiming. */
const STEPS = [
  null,
  "storeEpoch",
  "promote",
  "drained",
  "adopted",
  "claimed",
  "spoken",
  "silence",
  "dropStandby",
  "arbitrate",
  "handOver",
  "handed",
  "frame",
  "run",
  "sent",
  "written!",
] as const;

/** Runs the schedule of `seed`. */
export function runSchedule(seed: number, kind: Partial<Kind> = {}): Outcome {
  const random = new Random(seed);
  const world = new World(random.seed(), kind);
  try {
    play(world, random);
    return world.outcome(null);
  } catch (error) {
    return world.outcome(error as Error);
  }
}

function play(world: World, random: Random): void {
  const { clock } = world;
  const kind = random.next();
  clock.run(CALM_MS);
  for (let i = 0, count = 1 + random.integer(CLIENTS_MAX); i < count; i++) {
    clock.after(random.next() ** 2 * STORM_MS, () => openClient(world, random));
  }
  const stormMs = CALM_MS + STORM_MS;
  if (kind < 0.05) clock.run(stormMs);
  else if (kind < 0.4) {
    clock.run(CALM_MS + random.next() * STORM_MS * 0.5);
    makeSingleFailure(world, random);
    clock.run(stormMs);
  } else {
    let nextMs = clock.nowMs;
    while (nextMs < stormMs) {
      clock.run(nextMs);
      makeFault(world, random);
      nextMs += 20 + random.next() ** 2 * 1200;
    }
    clock.run(stormMs);
  }
  world.heal();
  clock.run(clock.nowMs + MEND_MS, () => world.isOver);
  world.awaitsRecords = random.next() < QUIET_RATIO;
  clock.run(clock.nowMs + QUIET_MS, () => !world.awaitsRecords && world.isSettled);
  if (!world.awaitsRecords) clock.run(clock.nowMs + SETTLED_MS);
  world.finish();
  const lost = [...world.clients.values()].find(({ done }) => !done);
  if (kind < 0.4 && lost !== undefined) {
    world.fail(
      "progress",
      `one failure alone, and client ${lost.plan.port} was lost: ${lost.excuse}`,
    );
  }
}

function openClient(world: World, random: Random): void {
  const echo = world.hint ? "ask" : "echo";
  const kind = (["download", "upload", echo] as const)[random.integer(3)];
  world.open({
    port: world.nextPort,
    kind,
    size: 1 + Math.floor(random.next() ** 3 * 60_000),
    pieces: (1 + random.integer(12)) * (kind === "ask" ? 4 : 1),
    pauseMs: random.next() ** 2 * 400,
  }, {
    window: 1500 + random.integer(60_000),
    scale: random.next() < 0.8 ? random.integer(8) : null,
    stamps: random.next() < 0.8,
  });
}

/** One of the failures that DESIGN 1 calls survived. */
function makeSingleFailure(world: World, random: Random): void {
  const host = world.hosts[random.integer(2)];
  switch (random.integer(world.mixed ? 8 : 6)) {
    case 6:
    case 7:
      return world.killServer(host);
    case 0:
      return strike(world, random, { host, step: null, ends: true });
    case 1:
      return strike(world, random, { host, step: null, ends: false });
    case 2:
      return world.kill(host, random.next() < 0.5);
    case 3:
      return cutOff(world, random.integer(3));
    case 4:
      return requestSwitch(world);
    case 5:
      world.weather.replicas = badWeather(random);
      world.weather.clients = badWeather(random);
  }
}

function makeFault(world: World, random: Random): void {
  const host = world.hosts[random.integer(2)];
  const { cuts } = world;
  switch (random.integer(world.mixed ? 23 : 19)) {
    case 19:
    case 20:
    case 21:
    case 22:
      return world.killServer(host);
    case 16:
      // It reaches its clients alone.
      cutOff(world, 2);
      cuts.add(`register${host.name}`);
      return;
    case 17:
      cuts.add(`beats${host.name}`);
      return strike(world, random, {
        host: world.other(host),
        step: "arbitrate",
        ends: random.next() < 0.3,
      });
    case 18:
      return arriveLate(world, random);
    case 0:
      return world.kill(host, random.next() < 0.5);
    case 1:
    case 2:
      for (const each of world.hosts) world.boot(each);
      return;
    case 3:
    case 4: {
      const step = STEPS[random.integer(STEPS.length)];
      return strike(world, random, { host, step, ends: random.next() < 0.5 });
    }
    case 5:
      return world.stop(host, random.next() ** 3 * 3000);
    case 6:
      return cutOff(world, random.integer(3));
    case 7:
    case 8:
      return cuts.clear();
    case 9:
      cuts.add(`register${host.name}`);
      return;
    case 10:
      cuts.add(`clients${host.name}`);
      return;
    case 11:
      cuts.add(random.next() < 0.5 ? `clog${host.name}` : `${host.name}${world.other(host).name}0`);
      return;
    case 12:
      return requestSwitch(world);
    case 13:
      world.weather.clients = badWeather(random);
      return;
    case 14:
      world.weather.replicas = badWeather(random);
      return;
    case 15:
      world.registerMsMax = random.next() < 0.5 ? 3 : 600;
      world.passMsMax = random.next() < 0.5 ? 0.5 : 40;
  }
}

function badWeather(random: Random): World["weather"]["clients"] {
  return {
    lossRatio: random.next() ** 2 * 0.3,
    doubleRatio: random.next() * 0.1,
    delayMsMax: random.next() < 0.5 ? 1 : 30,
  };
}

/** The replicas lose sight of each other, in one direction or in both. */
function cutOff(world: World, which: number): void {
  if (which !== 1) world.cuts.add("ab*");
  if (which !== 0) world.cuts.add("ba*");
  world.note(null, `cut ${which}`);
}

/** A primary ends; its last frames arrive while the standby sleeps over the register's answer. */
function arriveLate(world: World, random: Random): void {
  const { clock, cuts } = world;
  const primary = world.hosts.find(({ isUp, replica }) => isUp && replica.role === "primary");
  if (primary === undefined) return;
  const standby = world.other(primary);
  const [endsMs, sleepsMs] = [random.next() * 40, 60 + random.next() * 200];
  cuts.add(`clog${primary.name}`);
  world.strikes.set(standby, {
    step: "arbitrate",
    left: 1,
    ends: false,
    act: () => {
      world.stop(standby, sleepsMs);
      cuts.delete(`clog${primary.name}`);
    },
  });
  clock.after(endsMs, () => {
    if (!world.isMended) world.kill(primary, false);
  });
}

function requestSwitch(world: World): void {
  world.hosts.find((host) => host.isUp && host.replica.role === "primary")?.requestSwitch();
}

/** The daemon ends, or is stopped, at a step soon to come. */
function strike(
  world: World,
  random: Random,
  { host, step, ends }: { host: SimHost; step: string | null; ends: boolean },
): void {
  const machine = random.next() < 0.5;
  const ms = random.next() ** 2 * 3000;
  world.strikes.set(host, {
    step,
    left: 1 + random.integer(step === null || step === "frame" || step === "written!" ? 30 : 1),
    ends,
    act: () => ends ? world.kill(host, machine) : world.stop(host, ms),
  });
}
