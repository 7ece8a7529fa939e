/**
 * mod.ts - the benchmarks, by name
 *
 * Theory of operation
 * Each suite is a file of its own that takes the words after its name, and is loaded only when it is
 * asked for. Without a name all run, one after the other, and bench/out/report.html is written. "report"
 * writes it from what earlier runs left in bench/out; "readme" writes bench/README.md and its pictures too.
 * A suite that cannot run at all is reported by name, and the others go on.
 */

import { parseArgs } from "node:util";

import { writePages } from "./pages.ts";

/** A suite: takes its arguments, gives an exit status. */
type Suite = (args: string[]) => Promise<number>;

const SUITES: Record<string, () => Promise<Suite>> = {
  core: async () => (await import("./core.ts")).benchCore,
  path: async () => (await import("./path.ts")).benchPath,
  alarms: async () => (await import("./alarms.ts")).benchAlarms,
  papers: async () => (await import("./papers.ts")).benchPapers,
  takeover: async () => (await import("./takeover.ts")).benchTakeover,
};
const PAGES = ["report", "readme"];

/**
 * Runs benchmarks.
 *
 * @param args Name of a suite and its arguments; none for all suites; "--help" for what there is.
 * @returns Exit status: 0 done, 1 something could not be measured, 2 wrong use.
 */
export async function bench(args: string[]): Promise<number> {
  const names = Object.keys(SUITES);
  const [name, ...rest] = args;
  if (name === "--help") {
    console.log(
      `Suites: ${names.join(", ")} (all without a name)\n` +
        "SUITE --help says what a suite takes\n" +
        "--quick: all in under three minutes, fewer cases and rounds\n" +
        "--against DIRECTORY: compares each suite with the JSON there; bench/out is the last run\n" +
        "report: writes bench/out/report.html from what earlier runs left in bench/out\n" +
        "readme: writes bench/README.md and its pictures too",
    );
    return 0;
  }
  if (name === undefined || name.startsWith("--")) return await benchAll(args);
  if (PAGES.includes(name)) {
    await sayPages({ readme: name === "readme" });
    return 0;
  }
  if (!Object.hasOwn(SUITES, name)) {
    console.error(
      `Cannot run "${name}", allowed are ${[...names, ...PAGES, "--quick"].join(", ")}`,
    );
    return 2;
  }
  return await (await SUITES[name]())(rest);
}

/** All suites, one after the other. */
async function benchAll(args: string[]): Promise<number> {
  let options: { quick?: boolean; against?: string };
  try {
    const known = { quick: { type: "boolean" }, against: { type: "string" } } as const;
    options = parseArgs({ args, options: known }).values;
  } catch (error) {
    const what = error instanceof Error ? error.message : error;
    console.error(`Cannot run all suites: ${what}; allowed are --quick, --against DIRECTORY`);
    return 2;
  }
  let status = 0;
  for (const [suite, load] of Object.entries(SUITES)) {
    const words = options.quick ? ["--quick"] : [];
    const earlier = `${options.against}/${suite}.json`;
    if (options.against !== undefined && exists(earlier)) words.push("--against", earlier);
    try {
      status = Math.max(status, await (await load())(words));
    } catch (error) {
      console.error(`FAILED ${suite}: ${error instanceof Error ? error.message : error}`);
      status = Math.max(status, 1);
    }
  }
  await sayPages({ readme: false });
  return status;
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function sayPages(options: { readme: boolean }): Promise<void> {
  for (const path of await writePages(options)) console.log(`written to ${path}`);
}

if (import.meta.main) Deno.exit(await bench(Deno.args));
