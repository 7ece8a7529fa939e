/**
 * coverage.ts - how much of the core and of the protocol's state machines the unit tests reach
 *
 * Theory of operation
 * The unit suite runs once with V8's own coverage, which counts runtime/protocol, and with the counting
 * build of the packet core in the place of the usual one (core_build.ts, core_preload.ts). The results are
 * printed as two tables: reached and all branches of each file, and the first lines of those not reached.
 *
 *   core       branches as core_build.ts counts them: also the arm of an `if` that is not written
 *   protocol   branches as V8 counts them: blocks that may not run
 *
 * A state machine of which less than PROTOCOL_PERCENT_MIN is reached is a failure, which run.ts counts.
 */

import { type Branch, buildCoveredCore } from "./core_build.ts";

/** Least share of branches of each file of runtime/protocol that tests reach, percent. */
const PROTOCOL_PERCENT_MIN = 95;
/** Lines that are named for one file. */
const LINES_NAMED_MAX = 12;

/** One file's row. */
export interface FileCoverage {
  /** Its path below the directory of the table. */
  file: string;
  /** Branches that were reached. */
  reached: number;
  /** All branches. */
  total: number;
  /** Lines where branches begin that were not reached. */
  missed: number[];
}

/** A run of tests that is measured. */
export class Coverage {
  readonly #directory: string;
  readonly #branches: Branch[];

  private constructor(directory: string, branches: Branch[]) {
    this.#directory = directory;
    this.#branches = branches;
  }

  /** Builds the counting core; about 5 s. */
  static async prepare(): Promise<Coverage> {
    const directory = await Deno.makeTempDir({ prefix: "holdfast-coverage-" });
    await Deno.mkdir(`${directory}/core`);
    return new Coverage(directory, await buildCoveredCore(`${directory}/core`));
  }

  /** Further arguments of `deno test`. */
  get args(): string[] {
    return [
      `--coverage=${this.#directory}/v8`,
      "--coverage-raw-data-only",
      `--preload=${new URL("./core_preload.ts", import.meta.url).pathname}`,
    ];
  }

  /** Further environment of `deno test`. */
  get env(): Record<string, string> {
    return {
      HOLDFAST_COVER: `${this.#directory}/core`,
      HOLDFAST_COVER_BRANCHES: String(this.#branches.length),
    };
  }

  /**
   * What was reached by now, as text for people.
   *
   * @returns The tables, and the files of which too little was reached.
   */
  async report(): Promise<{ text: string; tooLow: string[] }> {
    const protocol = await this.#protocol();
    const tooLow = protocol.filter((row) => percentOf(row) < PROTOCOL_PERCENT_MIN)
      .map(({ file }) => `runtime/protocol/${file}`);
    const core = coreCoverage(this.#branches, await this.#coreCounts());
    const text = [renderCoverage("core", core), renderCoverage("runtime/protocol", protocol)];
    return { text: text.join("\n\n"), tooLow };
  }

  /** Removes what was measured. */
  async close(): Promise<void> {
    await Deno.remove(this.#directory, { recursive: true });
  }

  async #coreCounts(): Promise<Uint32Array> {
    const sum = new Uint32Array(this.#branches.length);
    for await (const { name } of Deno.readDir(`${this.#directory}/core`)) {
      if (!name.startsWith("counts-")) continue;
      const octets = await Deno.readFile(`${this.#directory}/core/${name}`);
      const counts = new Uint32Array(octets.buffer);
      for (const [branch, count] of counts.entries()) if (count > 0) sum[branch] = 1;
    }
    return sum;
  }

  async #protocol(): Promise<FileCoverage[]> {
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["coverage", "--lcov", "--include=runtime/protocol/", `${this.#directory}/v8`],
    }).output();
    const decoder = new TextDecoder();
    if (success) return parseLcov(decoder.decode(stdout), "runtime/protocol/");
    throw new Error(`Cannot read what V8 has counted: ${decoder.decode(stderr)}`);
  }
}

/** Rows of the core from its branches and how often each was reached. */
export function coreCoverage(
  branches: readonly Branch[],
  counts: ArrayLike<number>,
): FileCoverage[] {
  const rows = new Map<string, FileCoverage>();
  for (const [number, { file, line }] of branches.entries()) {
    const row = rows.get(file) ?? { file, reached: 0, total: 0, missed: [] };
    rows.set(file, row);
    row.total++;
    if (counts[number] > 0) row.reached++;
    else row.missed.push(line);
  }
  return [...rows.values()].sort((a, b) => a.file < b.file ? -1 : 1);
}

/**
 * Rows of a report in lcov's form (geninfo(1)): `SF:` names a file, `BRDA:` is line, block, branch and count.
 *
 * @param text The report.
 * @param directory Where names in the table begin.
 */
export function parseLcov(text: string, directory: string): FileCoverage[] {
  const rows: FileCoverage[] = [];
  for (const line of text.split("\n")) {
    const [key, value] = [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1)];
    if (key === "SF") {
      const file = value.slice(value.lastIndexOf(directory) + directory.length);
      rows.push({ file, reached: 0, total: 0, missed: [] });
    } else if (key === "BRDA") {
      const row = rows[rows.length - 1];
      const [at, , , count] = value.split(",");
      row.total++;
      if (Number(count) > 0) row.reached++;
      else row.missed.push(Number(at));
    }
  }
  return rows.sort((a, b) => a.file < b.file ? -1 : 1);
}

/** Share of branches that were reached, percent; a file without any counts as reached. */
function percentOf({ reached, total }: { reached: number; total: number }): number {
  return total === 0 ? 100 : 100 * reached / total;
}

/** One table; the last row is the sum. */
export function renderCoverage(title: string, rows: readonly FileCoverage[]): string {
  const sum = rows.reduce(
    (sum, { reached, total }) => ({ reached: sum.reached + reached, total: sum.total + total }),
    { reached: 0, total: 0 },
  );
  const width = rows.reduce((width, { file }) => Math.max(width, file.length), title.length);
  const line = (name: string, row: { reached: number; total: number }, missed: string) =>
    `${name.padEnd(width)}  ${percentOf(row).toFixed(1).padStart(5)} %  ` +
    `${`${row.reached}/${row.total}`.padStart(9)}  ${missed}`.trimEnd();
  return [
    `${title.padEnd(width)}  branches reached  not reached, by line`,
    ...rows.map((row) => line(row.file, row, nameLines(row.missed))),
    line("all", sum, ""),
  ].join("\n");
}

function nameLines(lines: readonly number[]): string {
  const distinct = [...new Set(lines)].sort((a, b) => a - b);
  const named = distinct.slice(0, LINES_NAMED_MAX).join(" ");
  const more = distinct.length - LINES_NAMED_MAX;
  return more > 0 ? `${named} and ${more} more` : named;
}
