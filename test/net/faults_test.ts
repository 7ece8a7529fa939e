/**
 * faults_test.ts - random fault schedules, thirty of the thousand that were promised
 *
 *   client ---- switch ---- host a ══ host b      witness        see faults.ts and schedule.ts
 *
 * Claim: no connection notices any sequence of single failures (of server, daemon, host or link) and
 * repairs, whatever their moments; each is judged as what it was, and there is one voice. The seed is fresh
 * in each run, and printed; `deno task faults` runs as many as anyone likes.
 */

import assert from "node:assert/strict";
import { netTest, repetitions } from "./conditions.ts";
import { runAndReport } from "./faults.ts";

/** Repetitions promised, and the share of them that a run does when nothing else is asked for. */
const SCHEDULES = 1000;
const SHARE = 0.03;

netTest("random fault schedules cost no connection anything", [], async ({ random }) => {
  const runs = repetitions(SCHEDULES, SHARE);
  const { held, failures } = await runAndReport({ seed: random.seed(), runs });
  assert.equal(held, runs, failures.map(({ command }) => command).join("\n"));
});
