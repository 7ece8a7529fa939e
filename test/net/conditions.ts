/**
 * conditions.ts - what a network test needs of the host, how often it repeats, where its luck is from
 *
 * Theory of operation
 * `netTest()` registers a test that runs only where it can: as root on Linux with the programs it
 * names. Where it cannot, Deno reports it as ignored and the hint says what to install. Random
 * choices come from one seed per test, printed at its start; `HOLDFAST_SEED=N` repeats it.
 * `HOLDFAST_REPEAT` is the share of the promised repetitions that runs: 1 is all of them, 0.1 (the
 * default) a tenth, and never less than one.
 *
 * `HOLDFAST_KEEP=1` keeps the directories, and with them the captures.
 *
 *   until()         polls a condition against a deadline: the only way tests here wait
 *   sleep()         for the passing of time that is itself part of a test
 */

import { endAllProcesses } from "./process.ts";
import { Random, seedOfRun } from "./random.ts";

/** Interval at which `until` looks, milliseconds. */
const POLL_MS = 20;
/** Share of the promised repetitions that runs by default. */
const REPEAT_SHARE = 0.1;

// Namespaces have no way out: a Deno that asks for news there would wait for an answer in vain.
Deno.env.set("DENO_NO_UPDATE_CHECK", "1");

/** Debian packages of the programs that tests use. */
const PACKAGES: Record<string, string> = {
  curl: "curl",
  ethtool: "ethtool",
  ip: "iproute2",
  nginx: "nginx-light",
  python3: "python3",
  tcpdump: "tcpdump",
  wget: "wget",
  wrk: "wrk",
};

/** What a network test gets to work with. */
export interface NetTestContext {
  /** Random choices, seeded and printed. */
  random: Random;
  /** A directory of its own, removed at the end. */
  directory: string;
}

/**
 * Registers a test that needs root, Linux and some programs.
 *
 * @param name Title: the subject and the claim.
 * @param programs Programs it runs beside `ip`, `tcpdump` and `ethtool`.
 * @param body The test.
 */
export function netTest(
  name: string,
  programs: string[],
  body: (context: NetTestContext) => Promise<void>,
): void {
  const missing = missingPrograms(["ip", "tcpdump", "ethtool", ...programs]);
  const why = reasonToSkip(missing);
  if (why !== undefined) console.error(`Skipped '${name}': ${why}`);
  Deno.test({
    name,
    ignore: why !== undefined,
    fn: async ({ origin }) => {
      const seed = seedOfRun();
      console.log(`seed ${seed}  ->  HOLDFAST_SEED=${seed} deno test -A ${fileOf(origin)}`);
      const directory = await Deno.makeTempDir({ prefix: "holdfast-test-" });
      try {
        await body({ random: new Random(seed), directory });
      } catch (error) {
        // A report of failures keeps errors, not what was printed.
        throw new Error(`failed with HOLDFAST_SEED=${seed}`, { cause: error });
      } finally {
        await endAllProcesses();
        if (Deno.env.get("HOLDFAST_KEEP") === "1") console.log(`kept ${directory}`);
        else await Deno.remove(directory, { recursive: true });
      }
    },
  });
}

/**
 * How often a random test repeats in this run.
 *
 * @param promised The number of repetitions that the project promises.
 * @param share The share of them when HOLDFAST_REPEAT is not set.
 * @returns Its share, at least 1.
 * @throws {RangeError} If HOLDFAST_REPEAT is not a number above 0 and up to 1.
 */
export function repetitions(promised: number, share: number = REPEAT_SHARE): number {
  const text = Deno.env.get("HOLDFAST_REPEAT");
  if (text !== undefined) share = Number(text);
  if (!(share > 0 && share <= 1)) {
    throw new RangeError(`HOLDFAST_REPEAT is '${text}', allowed is a number above 0 and up to 1`);
  }
  return Math.max(1, Math.round(promised * share));
}

/**
 * Waits until something is so.
 *
 * @param condition Says true, or what was waited for, when it is.
 * @param options `what` completes "waited for ...", `timeoutMs` is the deadline.
 * @returns What the condition returned.
 * @throws {Error} If it is not so by the deadline; the message holds the condition's last error.
 */
export async function until<T>(
  condition: () => T | Promise<T>,
  options: { what: string; timeoutMs: number },
): Promise<Exclude<T, undefined | null | false>> {
  const deadlineMs = performance.now() + options.timeoutMs;
  let lastError: unknown;
  do {
    try {
      const result = await condition();
      lastError = undefined;
      if (result !== undefined && result !== null && result !== false) {
        return result as Exclude<T, undefined | null | false>;
      }
    } catch (error) {
      lastError = error;
    }
    await sleep(POLL_MS);
  } while (performance.now() < deadlineMs);
  const last = lastError === undefined ? "" : `; last error: ${lastError}`;
  throw new Error(`Waited for ${options.what}: not within ${options.timeoutMs} ms${last}`);
}

/**
 * Lets time pass.
 *
 * @param ms Milliseconds.
 */
export async function sleep(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms));
}

function reasonToSkip(missing: string[]): string | undefined {
  if (Deno.build.os !== "linux") return "it needs Linux";
  if (Deno.uid() !== 0) return "it needs root, for network namespaces";
  if (missing.length === 0) return undefined;
  const packages = missing.map((program) => PACKAGES[program] ?? program);
  return `it needs ${missing.join(", ")}: apt-get install ${packages.join(" ")}`;
}

function missingPrograms(programs: string[]): string[] {
  const places = (Deno.env.get("PATH") ?? "").split(":");
  return programs.filter((program) => !places.some((place) => isFile(`${place}/${program}`)));
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
      return false;
    }
    throw error;
  }
}

function fileOf(origin: string): string {
  return new URL(origin).pathname.replace(`${Deno.cwd()}/`, "");
}
