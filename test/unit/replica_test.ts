/**
 * replica_test.ts - who speaks for a service, under every fault that two hosts and a register can have
 *
 * Random schedules of faults run in replica_world.ts, which checks after every step that never two
 * may speak, that an epoch belongs to one life of one replica, and that whoever goes on with
 * connections has all that clients were told. Then the faults end, and one primary with one ready
 * standby must come about. A failing schedule prints its own seed.
 */
import { ok, strictEqual } from "node:assert/strict";
import { Random } from "../net/random.ts";
import { World } from "./replica_world.ts";
import { rounds, seededTest } from "./seeded.ts";

/** Schedules of a usual run. */
const SCHEDULES = 60;
const CALM_MS = 2500;
const STORM_MS = 6000;
const SETTLE_MS = 8000;

Deno.test("one replica becomes primary, the other its ready standby", () => {
  const world = new World(new Random(1));
  world.run(CALM_MS);
  const [a, b] = world.nodes.map(({ replica }) => replica);
  strictEqual(`${a.role} ${b.role}`, "primary standby", "the preferred one is primary");
  ok(a.ready && b.ready && a.maySpeak(world.nowMs) && !b.maySpeak(world.nowMs));
  strictEqual(a.epoch, 1);
});

seededTest("two replicas and a register keep one voice under random faults", (random) => {
  let takeovers = 0;
  for (let i = 0; i < rounds(SCHEDULES); i++) takeovers += storm(random.seed());
  ok(takeovers > 0, "no standby ever took over: the schedules test nothing");
});

/** One schedule; returns how often connections were taken over. */
function storm(seed: number): number {
  const random = new Random(seed);
  const world = new World(random);
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
    world.settle(SETTLE_MS);
  } catch (error) {
    console.log(`failing schedule: ${seed}`);
    throw error;
  }
  return world.takeovers;
}

function makeFault(world: World, random: Random): void {
  const node = world.nodes[random.integer(2)];
  const { cuts } = world;
  switch (random.integer(9)) {
    case 0:
      return world.crash(node);
    case 1:
      for (const each of world.nodes) world.restart(each);
      return;
    case 2:
      return world.pause(node, random.next() ** 3 * 3000);
    case 3:
      cuts.add(random.next() < 0.5 ? "ab" : "ba");
      return;
    case 4:
      cuts.add("ab");
      cuts.add("ba");
      return;
    case 5:
      cuts.delete("ab");
      cuts.delete("ba");
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
