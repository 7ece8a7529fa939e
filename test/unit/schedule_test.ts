/** schedule_test.ts - random fault schedules: the same from the same seed, and none that must lose. */

import assert from "node:assert/strict";
import {
  describeStep,
  drawBatch,
  FAULT_KINDS,
  isBrief,
  outcomeOf,
  SCHEDULES_PER_BATCH,
} from "../net/schedule.ts";

const SEEDS = 500;

Deno.test("drawBatch() gives the same batch for the same seed, and its beginning without the rest", () => {
  const whole = drawBatch(7);
  assert.equal(whole.schedules.length, SCHEDULES_PER_BATCH);
  assert.deepEqual(drawBatch(7), whole);
  const two = drawBatch(7, 2);
  assert.deepEqual([two.site, two.schedules], [whole.site, whole.schedules.slice(0, 2)]);
  assert.notDeepEqual(drawBatch(8).schedules, whole.schedules);
});

Deno.test("drawBatch() draws every fault of either host, and every circumstance", () => {
  const seen = new Set<string>();
  for (let seed = 0; seed < SEEDS; seed++) {
    const { site, schedules } = drawBatch(seed);
    for (const [key, value] of Object.entries(site)) seen.add(`${key} ${value}`);
    for (const schedule of schedules) {
      seen.add(`${schedule.length} steps`);
      for (const step of schedule) {
        seen.add(`${step.kind} of ${step.victim}`);
        if (isBrief(step)) seen.add(`brief ${step.kind}`);
        if (step.witnessAwayMs !== null) seen.add(`${step.kind} without witness`);
        for (const { kind } of step.preludes) seen.add(kind);
      }
    }
  }
  const wanted = [
    ...FAULT_KINDS.flatMap((kind) => [`${kind} of primary`, `${kind} of standby`]),
    ...["switch", "witness restart", "one link down"],
    ...[
      "brief daemon SIGSTOP",
      "brief server SIGSTOP",
      "brief replication cut",
      "power cut without witness",
    ],
    ...["1 steps", "2 steps", "3 steps", "family 4", "family 6", "links 1", "links 2"],
    ...["commit strict", "commit ack", "insecure true", "insecure false"],
  ];
  assert.deepEqual(wanted.filter((each) => !seen.has(each)), []);
});

Deno.test("drawBatch() draws nothing that may lose connections by design", () => {
  for (let seed = 0; seed < SEEDS; seed++) {
    const { site, schedules } = drawBatch(seed);
    for (const step of schedules.flat()) {
      const what = `seed ${seed}: ${describeStep(step)}`;
      // A hand-over needs a grant.
      if (step.kind.startsWith("server")) assert.equal(step.witnessAwayMs, null, what);
      const cut = step.preludes.some(({ kind }) => kind === "one link down");
      assert.ok(!cut || site.links === 2, what);
    }
  }
});

Deno.test("outcomeOf() knows who must be primary wherever that is certain", () => {
  const [step] = drawBatch(1).schedules[0];
  const plain = { ...step, kind: "power cut", lastMs: 1000, witnessAwayMs: null } as const;
  assert.equal(outcomeOf({ ...plain, victim: "primary" }), "moves");
  assert.equal(outcomeOf({ ...plain, victim: "standby" }), "stays");
  assert.equal(outcomeOf({ ...plain, kind: "replication cut" }), "either");
  assert.equal(outcomeOf({ ...plain, kind: "daemon SIGSTOP", lastMs: 50 }), "either");
});
