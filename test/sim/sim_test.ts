/**
 * sim_test.ts - simulated schedules hold, seeds repeat, and every checker finds what it is there for
 *
 * Schedules are the same in every run; of one of 20 HOLDFAST_SEED=random plays others each time, and prints the seed
 * they follow from. HOLDFAST_SIM is how many run: 2,000, or ten times as many when HOLDFAST_REPEAT is 1. Below 200
 * it is a quick look: no regressions, and only the mutants that show at once.
 */
import { ok, strictEqual } from "node:assert/strict";
import { Random, seedOfRun } from "../net/random.ts";
import { Violation } from "./checks/check.ts";
import type { Mutant } from "./host.ts";
import { REGRESSIONS } from "./regressions.ts";
import { runSchedule } from "./schedule.ts";

const SCHEDULES = 20_000;
const SEEDED_SHARE = 0.05;
/** Where those begin that HOLDFAST_SEED may replace; above the seeds of all others. */
const FIRST_SEED = 1_000_000;
const QUICK_BELOW = 200;
/** Every mutant must be found among so many schedules; the search ends with the first that does. */
const MUTANT_SCHEDULES = 600;
const QUICK_MUTANTS: readonly Mutant[] = ["claimFirst", "storeNothing"];

/** Each broken rule, and the checkers that may be the first to see it. */
const FOUND_BY: Record<Mutant, string[]> = {
  claimFirst: ["state before address"],
  confirmUnread: ["output commit"],
  commitEarly: ["output commit"],
  speakAlways: ["one voice"],
  storeNothing: ["epochs monotonic"],
  forgetAtTakeover: ["no early end", "output commit"],
  stopTimers: ["bounded", "progress"],
  otherAnswers: ["gapless"],
  probeNothing: ["one voice"],
};

function schedules(): number {
  const text = Deno.env.get("HOLDFAST_SIM") ??
    String(SCHEDULES * Number(Deno.env.get("HOLDFAST_REPEAT") ?? "0.1"));
  const count = Number(text);
  if (Number.isInteger(count) && count > 0) return count;
  throw new RangeError(`HOLDFAST_SIM is '${text}', allowed is a whole number above 0`);
}

const isQuick = schedules() < QUICK_BELOW;
const seeded = Math.ceil(schedules() * SEEDED_SHARE);

function expectToHold(seed: number, { hint = false, mixed = false } = {}): number {
  const { violation, trace, takeovers } = runSchedule(seed, { hint, mixed });
  if (violation === null) return takeovers;
  console.log(trace.join("\n"));
  const repeat = `deno task sim ${hint ? "--hint " : ""}${mixed ? "--mixed " : ""}--seed ${seed}`;
  throw new Error(`repeat it: ${repeat}`, { cause: violation });
}

Deno.test("a seed repeats a schedule to the last packet", () => {
  const digests = [1, 2].map((seed) => runSchedule(seed).digest);
  strictEqual(new Set(digests).size, digests.length, "different seeds play the same schedule");
  for (const [index, digest] of digests.entries()) {
    strictEqual(runSchedule(index + 1).digest, digest);
  }
});

Deno.test({
  name: "schedules that once found something hold",
  ignore: isQuick,
}, () => {
  for (const { seed, mixed } of REGRESSIONS) expectToHold(seed, { mixed });
});

Deno.test("the first schedules hold", () => {
  let takeovers = 0;
  for (let seed = 0; seed < schedules() - seeded; seed++) takeovers += expectToHold(seed);
  ok(takeovers > 0, "nobody ever took over: the schedules test nothing");
});

Deno.test("schedules of a seed hold", () => {
  const first = seedOfRun(FIRST_SEED);
  console.log(`seed ${first}  ->  deno task sim --seed ${first} --schedules ${seeded}`);
  const seeds = new Random(first);
  for (let i = 0; i < seeded; i++) expectToHold(seeds.seed());
});

Deno.test("schedules of a seed hold where logs are cut between requests", () => {
  const first = seedOfRun(FIRST_SEED);
  console.log(`seed ${first}  ->  deno task sim --hint --seed ${first} --schedules ${seeded}`);
  const seeds = new Random(first);
  for (let i = 0; i < seeded; i++) expectToHold(seeds.seed(), { hint: true });
});

Deno.test("schedules of a seed hold where hosts differ in mode, and servers die", () => {
  const first = seedOfRun(FIRST_SEED);
  console.log(`seed ${first}  ->  deno task sim --mixed --seed ${first} --schedules ${seeded}`);
  const seeds = new Random(first);
  let takeovers = 0;
  for (let i = 0; i < seeded; i++) takeovers += expectToHold(seeds.seed(), { mixed: true });
  ok(takeovers > 0, "nobody ever took over: the schedules test nothing");
});

for (const [mutant, checks] of Object.entries(FOUND_BY) as [Mutant, string[]][]) {
  const name = `a host that breaks a rule is found: ${mutant} by ${checks.join(" or ")}`;
  Deno.test({ name, ignore: isQuick && !QUICK_MUTANTS.includes(mutant) }, () => {
    for (let seed = 0; seed < MUTANT_SCHEDULES; seed++) {
      const { violation } = runSchedule(seed, { mutant });
      if (violation instanceof Violation && checks.includes(violation.check)) return;
    }
    ok(false, `${mutant} was not found in ${MUTANT_SCHEDULES} schedules`);
  });
}
