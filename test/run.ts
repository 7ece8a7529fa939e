/**
 * run.ts - run the tests in order and say in one line how it went
 *
 * Theory of operation
 * Each suite is a directory beside this file and one `deno test` process, so a suite that hangs or
 * crashes does not take the others' results with it. Deno's own report streams through; the counts
 * come from the JUnit file it writes beside. A process that fails without a failed test (a file
 * that does not load, a crash) counts as one failure. The last line is
 *
 *   N passed, N failed, N skipped
 *
 * and the exit status is 1 when anything failed or when no test ran.
 *
 *   unit   pure functions and small programs, no privileges, seconds
 *   model  the protocol as a model that spin explores; skipped where spin or gcc is missing
 *   sim    simulated clock, network and hosts
 *   net    real kernels in network namespaces, root only, serial because two cores are shared
 *
 * Usage: deno run -A test/run.ts [unit|model|sim|net|all] [--full] [--coverage]
 * `--full` repeats random tests as often as the project promises; without it, a tenth of that
 * (HOLDFAST_REPEAT, see net/harness.ts). HOLDFAST_SEED repeats the random choices of an earlier run.
 * `--coverage` counts which branches of the core and the protocol the unit tests reach, and prints that
 * before the last line (measure/coverage.ts).
 */

import { Coverage } from "./measure/coverage.ts";

const SUITES = ["unit", "model", "sim", "net"] as const;
const FLAGS = ["--full", "--coverage"];
/** Longest run of one suite; the full repetitions take hours. */
const SUITE_TIMEOUT_MS = 6 * 3600_000;

/** Counts of one or more suites. */
export interface Counts {
  /** Test cases that held. */
  passed: number;
  /** Test cases that did not, and suites that broke. */
  failed: number;
  /** Test cases that could not run here. */
  skipped: number;
}

/**
 * Counts the tests in a JUnit report.
 *
 * @param report The XML text that `deno test --junit-path` wrote.
 * @returns How many test cases passed, failed and were skipped.
 */
export function countJunit(report: string): Counts {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const [, body = ""] of report.matchAll(CASE)) {
    if (/<(failure|error)\b/.test(body)) counts.failed++;
    else if (/<skipped\b/.test(body)) counts.skipped++;
    else counts.passed++;
  }
  return counts;
}

/** A `testcase` element: closed at once, or with a body. */
const CASE = /<testcase\b(?:[^>"]|"[^"]*")*?(?:\/>|>([^]*?)<\/testcase>)/g;

/** Runs one suite and streams its report. */
async function runSuite(
  directory: URL,
  { args, env }: { args: string[]; env: Record<string, string> },
): Promise<Counts> {
  const reportPath = await Deno.makeTempFile({ prefix: "holdfast-junit-", suffix: ".xml" });
  try {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["test", "-A", ...args, `--junit-path=${reportPath}`, directory.pathname],
      env,
    }).spawn();
    const timer = setTimeout(() => child.kill("SIGKILL"), SUITE_TIMEOUT_MS);
    const status = await child.status;
    clearTimeout(timer);
    const counts = countJunit(await Deno.readTextFile(reportPath));
    if (!status.success && counts.failed === 0) counts.failed++;
    return counts;
  } finally {
    await Deno.remove(reportPath);
  }
}

async function exists(directory: URL): Promise<boolean> {
  try {
    return (await Deno.stat(directory)).isDirectory;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function main(args: string[]): Promise<number> {
  const names = args.filter((arg) => !FLAGS.includes(arg));
  const unknown = names.find((name) => name !== "all" && !SUITES.some((suite) => suite === name));
  if (unknown !== undefined || names.length > 1) {
    const allowed = [...SUITES, "all", ...FLAGS].join(", ");
    console.error(`Cannot run '${names.join(" ")}': allowed are ${allowed}`);
    return 2;
  }
  const chosen = names.length === 0 || names[0] === "all" ? SUITES : names;
  const env: Record<string, string> = args.includes("--full") ? { HOLDFAST_REPEAT: "1" } : {};
  const total: Counts = { passed: 0, failed: 0, skipped: 0 };
  const coverage = args.includes("--coverage") ? await Coverage.prepare() : null;
  for (const suite of chosen) {
    const directory = new URL(`./${suite}/`, import.meta.url);
    if (!(await exists(directory))) continue;
    const measured = suite === "unit" ? coverage : null;
    const counts = await runSuite(directory, {
      args: measured?.args ?? [],
      env: { ...env, ...measured?.env },
    });
    total.passed += counts.passed;
    total.failed += counts.failed;
    total.skipped += counts.skipped;
  }
  if (coverage !== null) total.failed += await printCoverage(coverage);
  console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  return total.failed > 0 || total.passed === 0 ? 1 : 0;
}

/** Prints what was reached; returns how many files are below what they must be. */
async function printCoverage(coverage: Coverage): Promise<number> {
  const { text, tooLow } = await coverage.report();
  console.log(`\n${text}\n`);
  for (const file of tooLow) console.log(`too little of ${file} is reached`);
  await coverage.close();
  return tooLow.length;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
