/**
 * sim.ts - the command `deno task sim`: play random schedules until many fail or time is up
 *
 * Usage: deno task sim [--hint] [--mixed] [--seed N] [--minutes M] [--schedules K]
 *   --hint         some clients ask over HTTP/1.1, and their logs are cut between requests
 *   --mixed        hosts keep whole logs, and are hot or in log mode; servers die alone, too
 *   --seed N       play schedule N alone, or with --schedules the K that follow from it
 *   --minutes M    go on with fresh ones for so long
 *   --schedules K  play so many (200 if nothing is given)
 *
 * A failing schedule prints what broke, the last lines of its trace, and the command that repeats it.
 * The others go on, up to FAILURES_MAX failures. Exit status: 0 all held, 1 one did not, 2 wrong use.
 */
import { parseArgs } from "node:util";
import { Random } from "../net/random.ts";
import { runSchedule } from "./schedule.ts";

const SCHEDULES = 200;
const SEED_MAX = 0xffffffff;
/** A run ends after so many schedules that failed. */
const FAILURES_MAX = 5;
const USAGE = "usage: deno task sim [--hint] [--mixed] [--seed N] [--minutes M] [--schedules K]";

const encoder = new TextEncoder();

/** Numbers of the command line; null for those not given. */
interface Wish {
  hint: boolean;
  mixed: boolean;
  seed: number | null;
  minutes: number | null;
  schedules: number | null;
}

/** Reads the command line; throws when it makes no sense. */
function readWish(args: string[]): Wish {
  const { values } = parseArgs({
    args,
    options: {
      hint: { type: "boolean", default: false },
      mixed: { type: "boolean", default: false },
      seed: { type: "string" },
      minutes: { type: "string" },
      schedules: { type: "string" },
    },
  });
  const number = (name: "seed" | "minutes" | "schedules", most: number, isWhole: boolean) => {
    const text = values[name];
    if (text === undefined) return null;
    const value = Number(text);
    if (text !== "" && value >= 0 && value <= most && (!isWhole || Number.isInteger(value))) {
      return value;
    }
    throw new RangeError(
      `Cannot use --${name} ${text}: allowed is a ${isWhole ? "whole " : ""}number up to ${most}`,
    );
  };
  return {
    hint: values.hint,
    mixed: values.mixed,
    seed: number("seed", SEED_MAX, true),
    minutes: number("minutes", 10_000, false),
    schedules: number("schedules", 1e9, true),
  };
}

function main(args: string[]): number {
  let wish: Wish;
  try {
    wish = readWish(args);
  } catch (error) {
    console.error(`${(error as Error).message}\n${USAGE}`);
    return 2;
  }
  const { minutes, hint, mixed } = wish;
  const flags = `${hint ? "--hint " : ""}${mixed ? "--mixed " : ""}`;
  const alone = wish.seed !== null && wish.schedules === null && minutes === null;
  const most = alone ? 1 : wish.schedules ?? (minutes === null ? SCHEDULES : Infinity);
  const first = wish.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
  const seeds = new Random(first);
  const startMs = performance.now();
  const endMs = minutes === null ? Infinity : startMs + minutes * 60_000;
  if (!alone) console.log(`seed ${first}`);
  const sums = { schedules: 0, takeovers: 0, done: 0, lost: 0 };
  const failed: number[] = [];
  while (sums.schedules < most && failed.length < FAILURES_MAX && performance.now() < endMs) {
    const seed = alone ? first : seeds.seed();
    const { violation, trace, digest, takeovers, done, lost } = runSchedule(seed, { hint, mixed });
    if (violation !== null) {
      console.error(trace.join("\n"));
      console.error(
        `\n${violation.stack}\n\nrepeat it: deno task sim ${flags}--seed ${seed}`,
      );
      failed.push(seed);
    }
    if (alone) console.log(`digest ${digest}`);
    sums.schedules++;
    sums.takeovers += takeovers;
    sums.done += done;
    sums.lost += lost;
    if (Deno.stderr.isTerminal() && sums.schedules % 10 === 0) {
      Deno.stderr.writeSync(
        encoder.encode(`\r${sums.schedules - failed.length} held, ${sums.takeovers} takeovers `),
      );
    }
  }
  if (Deno.stderr.isTerminal()) console.error();
  const tookMs = performance.now() - startMs;
  console.log(
    `${sums.schedules - failed.length} of ${sums.schedules} schedules held, ${
      (tookMs / Math.max(1, sums.schedules)).toFixed(1)
    } ms each: ` +
      `${sums.takeovers} takeovers, ${sums.done} connections ended well, ${sums.lost} lost with an excuse`,
  );
  if (failed.length > 0) console.log(`failed: ${failed.join(", ")}`);
  return failed.length > 0 ? 1 : 0;
}

if (import.meta.main) Deno.exit(main(Deno.args));
