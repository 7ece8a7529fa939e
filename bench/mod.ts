/**
 * mod.ts - the benchmarks, by name
 *
 * Theory of operation
 * Each suite is a file of its own that takes the words after its name, and is loaded only when it is
 * asked for. Without a name all run, one after the other, with the options that were given (those that
 * all take, such as --quick), and bench/out/report.html is written. "report" writes it from what earlier
 * runs left in bench/out; "readme" writes bench/README.md and its pictures too.
 */

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
      `Suites: ${names.join(", ")} (all without a name; --quick: in under three minutes)\n` +
        "SUITE --help says what a suite takes\n" +
        "report: writes bench/out/report.html from what earlier runs left in bench/out\n" +
        "readme: writes bench/README.md and its pictures too",
    );
    return 0;
  }
  if (name === undefined || name === "--quick") {
    if (rest.length > 0) {
      console.error(`Cannot run all suites with "${rest.join(" ")}", allowed is --quick`);
      return 2;
    }
    let status = 0;
    for (const load of Object.values(SUITES)) status = Math.max(status, await (await load())(args));
    await sayPages({ readme: false });
    return status;
  }
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

async function sayPages(options: { readme: boolean }): Promise<void> {
  for (const path of await writePages(options)) console.log(`written to ${path}`);
}

if (import.meta.main) Deno.exit(await bench(Deno.args));
