/**
 * mod.ts - the benchmarks, by name
 *
 * Theory of operation
 * Each suite is a file of its own that takes the words after its name, and is loaded only when it is
 * asked for. Without a name all run, one after the other, each with its usual options.
 */

/** A suite: takes its arguments, gives an exit status. */
type Suite = (args: string[]) => Promise<number>;

const SUITES: Record<string, () => Promise<Suite>> = {
  core: async () => (await import("./core.ts")).benchCore,
  path: async () => (await import("./path.ts")).benchPath,
  takeover: async () => (await import("./takeover.ts")).benchTakeover,
};

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
      `Suites: ${names.join(", ")} (all without a name); SUITE --help says what it takes`,
    );
    return 0;
  }
  if (name === undefined) {
    let status = 0;
    for (const load of Object.values(SUITES)) status = Math.max(status, await (await load())([]));
    return status;
  }
  if (!Object.hasOwn(SUITES, name)) {
    console.error(`There is no suite "${name}", allowed are ${names.join(", ")}`);
    return 2;
  }
  return await (await SUITES[name]())(rest);
}

if (import.meta.main) Deno.exit(await bench(Deno.args));
