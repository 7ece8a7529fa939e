/**
 * faults.ts - random fault schedules on real kernels, for anyone to run
 *
 * Theory of operation
 * Each batch (schedule.ts) gets a topology of its own with a witness; its schedules run one after the other
 * (fault_step.ts). At its end the daemons are ended by SIGTERM, and the hosts must look as before the first
 * start, and after that nothing of the topology may be left.
 *
 * Batch t of `--seed N` has seed N + t. When a schedule fails, its batch ends: the captures of the failed
 * step and the logs of daemons and witness are kept, and the one command is printed that repeats it, from
 * the beginning of its batch, because what earlier schedules have left is part of the circumstances. The
 * choices are the same then; the kernels' timing is not.
 *
 *   deno task faults                        30 schedules, fresh seed
 *   deno task faults --seed 7 --runs 1000   as many as were promised: about two hours
 *
 * Exit status 0 when all held, 1 when one did not, 2 for wrong use. Namespaces and processes are removed
 * however it ends; after SIGKILL, by the next run.
 */

import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { onProcessEnd } from "../../runtime/lab/cleanup.ts";
import { namespaceNames, whyNoNamespaces } from "../../runtime/lab/namespaces.ts";
import { runStep } from "./fault_step.ts";
import { type HostName, mixedServer, type Site, withSite } from "./harness.ts";
import { endAllProcesses, runProcess } from "./process.ts";
import { Random } from "./random.ts";
import { type Batch, describeStep, drawBatch, LAG_MS, SCHEDULES_PER_BATCH } from "./schedule.ts";

/** Schedules of a run that says nothing else. */
const RUNS_DEFAULT = 30;
const RUNS_MAX = 1_000_000;
/** A run ends after so many failed batches. */
const FAILURES_MAX = 5;
/**
 * Heartbeats of 10 ms that may be missed. Two cores run two hosts, their servers and the client here; what
 * is asked is what is lost, not how soon, and a false alarm is a failure.
 */
const DETECT = 40;
const HOSTS = ["a", "b"] as const;

/** What is to be run. */
export interface FaultsOptions {
  /** Seed of the first batch. */
  seed: number;
  /** How many schedules. */
  runs: number;
  /** Told after each schedule, and before each step. */
  onProgress?: (progress: Progress) => void;
  /** Told of each failure when it happens. */
  onFailure?: (failure: Failure) => void;
}

/** How far a run has come. */
export interface Progress {
  /** Schedules that held. */
  held: number;
  /** Schedules in all. */
  runs: number;
  /** Faults survived. */
  faults: number;
  /** Batches that failed. */
  failed: number;
  /** What happens now. */
  now: string;
  /** A schedule has just ended. */
  isEnd: boolean;
}

/** A schedule that failed. */
export interface Failure {
  /** What was being done, and what was wrong. */
  message: string;
  /** Repeats it. */
  command: string;
  /** Where captures and logs are. */
  kept: string;
}

/** What a run found. */
export interface FaultsResult {
  /** Schedules that held. */
  held: number;
  /** Faults that were survived, by kind and victim. */
  faults: Record<string, number>;
  /** Schedules that did not. */
  failures: Failure[];
}

/** Runs schedules until all have run or FAILURES_MAX batches have failed. */
export async function runFaults(options: FaultsOptions): Promise<FaultsResult> {
  const { seed, runs, onProgress, onFailure } = options;
  const result: FaultsResult = { held: 0, faults: {}, failures: [] };
  let begun = 0;
  const tell = (now: string, isEnd: boolean) => {
    const faults = Object.values(result.faults).reduce((sum, count) => sum + count, 0);
    const { held, failures } = result;
    onProgress?.({ held, runs, faults, failed: failures.length, now, isEnd });
  };
  for (let number = 0; begun < runs && result.failures.length < FAILURES_MAX; number++) {
    const batch = drawBatch(
      (seed + number) % 2 ** 32,
      Math.min(SCHEDULES_PER_BATCH, runs - begun),
    );
    begun += batch.schedules.length;
    const run = new BatchRun(batch, { result, tell });
    const failure = await run.run();
    if (failure === null) continue;
    result.failures.push(failure);
    onFailure?.(failure);
  }
  return result;
}

/** One batch on a topology of its own. */
class BatchRun {
  readonly #batch: Batch;
  readonly #result: FaultsResult;
  readonly #tell: (now: string, isEnd: boolean) => void;
  /** Schedule and step that run, for messages. */
  #schedule = 0;
  #doing = "starting the hosts";
  #topologyId = "";
  #directory = "";

  constructor(
    batch: Batch,
    { result, tell }: { result: FaultsResult; tell: (now: string, isEnd: boolean) => void },
  ) {
    this.#batch = batch;
    this.#result = result;
    this.#tell = tell;
  }

  /** Null when all held. */
  async run(): Promise<Failure | null> {
    const { seed, site: { family, links, commit, insecure } } = this.#batch;
    const directory = await Deno.makeTempDir({ prefix: "holdfast-faults-" });
    this.#directory = directory;
    const unregister = onProcessEnd(() => Deno.removeSync(directory, { recursive: true }));
    let kept = false;
    try {
      const context = { random: new Random(seed), directory };
      await withSite(context, {
        ...{ family, links, insecure, hosts: [], witness: true, run: mixedServer() },
        cluster: { detect: DETECT },
        service: { commit, lag_time: `${LAG_MS}ms` },
      }, async (site) => {
        this.#topologyId = site.topology.id;
        await this.#runSchedules(site);
      });
      const left = namespaceNames().filter((name) => name.startsWith(`${this.#topologyId}-`));
      assert.deepEqual(left, [], "namespaces that were left behind");
      return null;
    } catch (error) {
      kept = true;
      return this.#failure(error);
    } finally {
      await endAllProcesses();
      unregister();
      if (!kept) await Deno.remove(directory, { recursive: true });
    }
  }

  async #runSchedules(site: Site): Promise<void> {
    try {
      const before = await Promise.all(HOSTS.map((host) => traces(site, host)));
      await Promise.all(HOSTS.map((host) => site.startDaemon(host)));
      await site.waitProtected();
      for (const schedule of this.#batch.schedules) {
        for (const step of schedule) {
          this.#doing = describeStep(step);
          this.#tell(this.#doing, false);
          const directory = await Deno.makeTempDir({ dir: this.#directory });
          await runStep({ site, directory }, step);
          await Deno.remove(directory, { recursive: true });
          const name = `${step.kind} of the ${step.victim}`;
          this.#result.faults[name] = (this.#result.faults[name] ?? 0) + 1;
        }
        this.#schedule++;
        this.#result.held++;
        this.#tell(schedule.map(describeStep).join("; "), true);
      }
      this.#doing = "ending the daemons";
      const primary = await site.primary();
      for (const host of [site.other(primary), primary]) {
        assert.equal(await site.terminateDaemon(host), 0, `exit status of ${host}`);
      }
      const after = await Promise.all(HOSTS.map((host) => traces(site, host)));
      assert.deepEqual(after, before, "what the daemons have left on the hosts");
    } catch (error) {
      await this.#keepLogs(site);
      throw error;
    }
  }

  /** Logs lie in the topology's directory, which goes with it. */
  async #keepLogs({ topology }: Site): Promise<void> {
    for await (const { name } of Deno.readDir(topology.directory)) {
      if (!name.endsWith(".log") && !name.endsWith(".toml")) continue;
      await Deno.copyFile(`${topology.directory}/${name}`, `${this.#directory}/${name}`);
    }
  }

  #failure(error: unknown): Failure {
    const { seed, schedules } = this.#batch;
    const runs = Math.min(this.#schedule + 1, schedules.length);
    const what = error instanceof Error ? error.message : String(error);
    return {
      message: `schedule ${this.#schedule + 1} of seed ${seed} failed at: ${this.#doing}\n${what}`,
      command: `deno task faults --seed ${seed} --runs ${runs}`,
      kept: this.#directory,
    };
  }
}

/** What a daemon could leave on a host: interfaces, rules, routes. */
async function traces(site: Site, host: HostName): Promise<string[]> {
  const { netns } = site.topology.hosts[host];
  const ask = async (...args: string[]) =>
    (await runProcess("ip", ["-n", netns, ...args])).split("\n").map((line) => line.trim());
  const links = (await ask("-brief", "link", "show")).map((line) => line.split(/[ @]/)[0]);
  return [links, await ask("rule"), await ask("-6", "rule"), await ask("route")].flat();
}

/** How a run goes, on standard error: one line that changes on a terminal, else one for each schedule. */
function showProgress(startMs: number): (progress: Progress) => void {
  const isTerminal = Deno.stderr.isTerminal();
  return ({ held, runs, faults, failed, now, isEnd }) => {
    const seconds = Math.round((performance.now() - startMs) / 1000);
    const text = `${held}/${runs} schedules held, ${faults} faults, ${failed} failed, ` +
      `${Math.floor(seconds / 60)} min ${seconds % 60} s: ${now}`;
    const line = isTerminal
      ? `\r\x1b[K${text.slice(0, Deno.consoleSize().columns - 1)}`
      : `${text}\n`;
    if (isTerminal || isEnd) Deno.stderr.writeSync(new TextEncoder().encode(line));
  };
}

/** Runs schedules, shows how it goes, and prints what was found; for the program and for the tests. */
export async function runAndReport(options: FaultsOptions): Promise<FaultsResult> {
  const { seed, runs } = options;
  console.log(`${runs} fault schedules, seed ${seed}`);
  const startMs = performance.now();
  const result = await runFaults({
    ...options,
    onProgress: showProgress(startMs),
    onFailure: ({ message, command, kept }) =>
      console.log(`\n${message}\nkept in ${kept}\nagain: ${command}\n`),
  });
  console.log("");
  for (const [name, count] of Object.entries(result.faults).sort()) {
    console.log(`${String(count).padStart(6)}  ${name}`);
  }
  const seconds = Math.round((performance.now() - startMs) / 1000);
  console.log(`\n${result.held} of ${runs} schedules held, in ${seconds} s`);
  return result;
}

function parseCount(text: string, name: string, max: number): number {
  const count = Number(text);
  if (text !== "" && Number.isInteger(count) && count >= 0 && count <= max) return count;
  throw new RangeError(`--${name} is '${text}', allowed is a whole number from 0 to ${max}`);
}

async function main(): Promise<number> {
  let seed: number;
  let runs: number;
  try {
    const { values } = parseArgs({
      options: { seed: { type: "string" }, runs: { type: "string" } },
    });
    const fresh = crypto.getRandomValues(new Uint32Array(1))[0];
    seed = parseCount(values.seed ?? String(fresh), "seed", 2 ** 32 - 1);
    runs = parseCount(values.runs ?? String(RUNS_DEFAULT), "runs", RUNS_MAX);
  } catch (error) {
    console.error(`Cannot run: ${(error as Error).message}\nusage: faults [--seed N] [--runs N]`);
    return 2;
  }
  const why = whyNoNamespaces();
  if (why !== null) {
    console.error(`Cannot run fault schedules: ${why}`);
    return 1;
  }
  const { held } = await runAndReport({ seed, runs });
  return held === runs ? 0 : 1;
}

if (import.meta.main) Deno.exit(await main());
