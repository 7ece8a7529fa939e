/**
 * experiment.ts - what an experiment is, so that one loop can run all of them
 *
 * Theory of operation
 * An experiment is a list of cases. Each case makes a site of its own, measures, adds figures to the
 * section of the experiment's name, and throws when something was lost. Cases take turns, round by round.
 */

import { hasProgram, type Report } from "./report.ts";

/** One thing to do and to measure. */
export interface Case {
  /** What people read while it runs. */
  what: string;
  /** Programs without which it is skipped. */
  needs?: readonly string[];
  /** Does it once. */
  act: (report: Report) => Promise<void>;
}

/** Cases that belong together. */
export interface Experiment {
  /** Name of its section. */
  name: string;
  /** What it shows is survived or not: one round says much, so it has rounds of its own. */
  isTrial: boolean;
  /** Its cases; fewer for a quick run. */
  cases: (quick: boolean) => Case[];
  /** Compares medians with what is wanted. */
  compare?: (report: Report) => void;
}

/**
 * Runs experiments, round by round.
 *
 * @param rounds How often for measurements, and for trials.
 */
export async function runExperiments(
  report: Report,
  experiments: readonly Experiment[],
  { rounds, trials, quick }: { rounds: number; trials: number; quick: boolean },
): Promise<void> {
  const plan = experiments.map(({ isTrial, cases }) => ({
    times: isTrial ? trials : rounds,
    cases: cases(quick).filter(({ what, needs = [] }) => {
      const missing = needs.filter((program) => !hasProgram(program));
      for (const program of missing) report.skip(what, `${program} is not installed`);
      return missing.length === 0;
    }),
  }));
  report.expect(plan.reduce((sum, { times, cases }) => sum + times * cases.length, 0));
  for (let round = 1; round <= Math.max(rounds, trials); round++) {
    for (const { times, cases } of plan.filter(({ times }) => round <= times)) {
      for (const { what, act } of cases) {
        await report.attempt(`${what}, round ${round} of ${times}`, () => act(report));
      }
    }
  }
}
