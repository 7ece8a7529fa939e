/**
 * run.ts - run the tests and say in one line how it went
 *
 * Theory of operation
 * Each suite is a directory beside this file and one `deno test` process, of the network tests each file,
 * so one that hangs or crashes does not take the others' results with it. Two run at a time (LANES): most
 * of a network test is waiting, and each has namespaces and a topology of its own. Deno's own report
 * streams through, with the name before each line where another one speaks too; the counts come from the
 * JUnit file it writes beside. A process that fails without a failed test (a file that does not load, a
 * crash) counts as one failure. What failed is told again at the end, as a long report's beginning is
 * easily lost. Types are not checked here: `ok` does that. The last line is
 *
 *   N passed, N failed, N skipped
 *
 * and the exit status is 1 when anything failed or when no test ran.
 *
 *   unit   pure functions and small programs, no privileges, seconds
 *   model  the protocol as a model that spin explores; skipped where spin or gcc is missing
 *   sim    simulated clock, network and hosts
 *   net    real kernels in network namespaces, root only
 *
 * Usage: deno run -A test/run.ts [unit|model|sim|net|all] [--full] [--coverage]
 * `--full` repeats random tests as often as the project promises; without it, a tenth of that
 * (HOLDFAST_REPEAT, see net/harness.ts), and gives unit tests another seed in each run. HOLDFAST_SEED
 * repeats the random choices of an earlier run.
 * `--coverage` counts which branches of the core and the protocol the unit tests reach, and prints that
 * before the last line (measure/coverage.ts).
 */

import { Coverage } from "./measure/coverage.ts";

/** Stages, one after the other. The longest suite of a stage is the first. */
const STAGES = [["unit", "model", "sim"], ["net"]] as const;
const SUITES = STAGES.flat();
/** Processes at a time. */
const LANES = 2;
const FLAGS = ["--full", "--coverage"];
/** Longest run of one process; the full repetitions take hours. */
const JOB_TIMEOUT_MS = 6 * 3600_000;

/** How long output is waited for whose process has ended: what it started may hold the pipe open. */
const OUTPUT_TIMEOUT_MS = 1000;

/** Longest part of one failure's text that is told again at the end, in characters. */
const FAILURE_CHARACTERS = 10_000;

/** What one process tests. */
interface Job {
  suite: string;
  /** What it is called in the report. */
  name: string;
  /** Directory or file. */
  tests: URL;
}

/** Counts of one or more suites. */
export interface Counts {
  /** Test cases that held. */
  passed: number;
  /** Test cases that did not, and suites that broke. */
  failed: number;
  /** Test cases that could not run here. */
  skipped: number;
}

/** What a process's report says. */
export interface JobResult extends Counts {
  /** Each test that failed: its name, and what it said. */
  failures: string[];
}

/**
 * Counts the tests in a JUnit report.
 *
 * @param report The XML text that `deno test --junit-path` wrote.
 * @returns How many test cases passed, failed and were skipped, and what those that failed said.
 */
export function readJunit(report: string): JobResult {
  const result: JobResult = { passed: 0, failed: 0, skipped: 0, failures: [] };
  for (const [, attributes, body = ""] of report.matchAll(CASE)) {
    if (/<(failure|error)\b/.test(body)) {
      result.failed++;
      const name = / name="([^"]*)"/.exec(attributes)?.[1] ?? "a test without a name";
      const said = body.replace(TAG, "").trim().slice(0, FAILURE_CHARACTERS);
      result.failures.push(`${unescapeXml(name)}\n${unescapeXml(said)}`);
    } else if (/<skipped\b/.test(body)) result.skipped++;
    else result.passed++;
  }
  return result;
}

/** A `testcase` element: closed at once, or with a body. */
const CASE = /<testcase\b((?:[^>"]|"[^"]*")*?)(?:\/>|>([^]*?)<\/testcase>)/g;

/** A tag, whose attributes may hold `>`. */
const TAG = /<(?:[^>"]|"[^"]*")*>/g;

/** Text out of XML: the five entities that are always there, and characters by number. */
function unescapeXml(text: string): string {
  const named: Record<string, string> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };
  return text.replace(/&(?:#(\d+)|#x([0-9a-fA-F]+)|(lt|gt|quot|apos|amp));/g, (_, ...groups) => {
    const [decimal, hexadecimal, name] = groups as (string | undefined)[];
    if (name !== undefined) return named[name];
    return String.fromCodePoint(parseInt(decimal ?? hexadecimal ?? "", decimal ? 10 : 16));
  });
}

/** The processes of a stage, those suites of it that are chosen. */
async function jobsOf(stage: readonly string[], chosen: readonly string[]): Promise<Job[]> {
  const jobs: Job[] = [];
  for (const suite of stage.filter((suite) => chosen.includes(suite))) {
    const directory = new URL(`./${suite}/`, import.meta.url);
    if (!(await exists(directory))) continue;
    if (suite === "net") jobs.push(...await jobsOfFiles(directory));
    else jobs.push({ suite, name: suite, tests: directory });
  }
  return jobs;
}

async function jobsOfFiles(directory: URL): Promise<Job[]> {
  const jobs: Job[] = [];
  for await (const { name } of Deno.readDir(directory)) {
    if (!name.endsWith("_test.ts")) continue;
    jobs.push({
      suite: "net",
      name: name.replace("_test.ts", ""),
      tests: new URL(name, directory),
    });
  }
  return jobs.sort((a, b) => a.name < b.name ? -1 : 1);
}

/** Runs one process and streams its report, each line after `prefix` if there is one. */
async function runJob(
  tests: URL,
  { args, env, prefix }: { args: string[]; env: Record<string, string>; prefix: string | null },
): Promise<JobResult> {
  const stream = prefix === null ? "inherit" : "piped";
  const reportPath = await Deno.makeTempFile({ prefix: "holdfast-junit-", suffix: ".xml" });
  try {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["test", "-A", "--no-check", ...args, `--junit-path=${reportPath}`, tests.pathname],
      env,
      stdout: stream,
      stderr: stream,
    }).spawn();
    const timer = setTimeout(() => child.kill("SIGKILL"), JOB_TIMEOUT_MS);
    const output = prefix === null ? [] : [child.stdout, child.stderr];
    const written = Promise.all(output.map((stream) => writeLines(stream, `${prefix}`)));
    const status = await child.status;
    clearTimeout(timer);
    await Promise.race([
      written,
      new Promise((resolve) => Deno.unrefTimer(setTimeout(resolve, OUTPUT_TIMEOUT_MS))),
    ]);
    const result = readJunit(await Deno.readTextFile(reportPath));
    if (!status.success && result.failed === 0) {
      result.failed++;
      result.failures.push(`${tests.pathname}: deno test ended with status ${status.code}`);
    }
    return result;
  } finally {
    await Deno.remove(reportPath);
  }
}

/** Writes what a process says to standard output, each line after `prefix`. */
async function writeLines(stream: ReadableStream<Uint8Array>, prefix: string): Promise<void> {
  const decoder = new TextDecoder();
  let line = "";
  for await (const octets of stream) {
    const lines = (line + decoder.decode(octets, { stream: true })).split("\n");
    line = lines.pop() ?? "";
    for (const whole of lines) console.log(`${prefix}${whole}`);
  }
  if (line !== "") console.log(`${prefix}${line}`);
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
  const chosen: readonly string[] = names.length === 0 || names[0] === "all" ? SUITES : names;
  const HOLDFAST_SEED = Deno.env.get("HOLDFAST_SEED") ?? "random";
  const env: Record<string, string> = args.includes("--full")
    ? { HOLDFAST_REPEAT: "1", HOLDFAST_SEED }
    : {};
  const total: Counts = { passed: 0, failed: 0, skipped: 0 };
  const failures: string[] = [];
  const coverage = args.includes("--coverage") ? await Coverage.prepare() : null;
  const run = async (job: Job, prefix: string | null) => {
    const measured = job.suite === "unit" ? coverage : null;
    const counts = await runJob(job.tests, {
      args: measured?.args ?? [],
      env: { ...env, ...measured?.env },
      prefix,
    });
    total.passed += counts.passed;
    total.failed += counts.failed;
    total.skipped += counts.skipped;
    failures.push(...counts.failures);
  };
  for (const stage of STAGES) {
    const jobs = await jobsOf(stage, chosen);
    const width = Math.max(...jobs.map((job) => job.name.length));
    const isAlone = jobs.length === 1;
    const lane = async () => {
      for (let job = jobs.shift(); job !== undefined; job = jobs.shift()) {
        await run(job, isAlone ? null : `${job.name.padEnd(width)} | `);
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
  }
  if (coverage !== null) total.failed += await printCoverage(coverage);
  for (const failure of failures) console.log(`\nFAILED ${failure}\n`);
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
