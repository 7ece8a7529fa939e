/**
 * report.ts - collects figures, prints them as tables, writes them as JSON
 *
 * Theory of operation
 * A section holds series; a series holds the values of one measurement, one per repetition. Failures are
 * figures too: they are printed where they happen and stand in the JSON, and the run goes on; what has not
 * ended after ATTEMPT_MAX_MS is one of them. Targets are compared with medians; a missed one is told with
 * what the suite knows of where the time goes, and is no failure of the run. Remarks are findings that are
 * words.
 *
 * Diagnosis goes to standard error as it happens, tables to standard output.
 */

import { cpus, loadavg, release } from "node:os";
import { dirname } from "node:path";
import { VERSION } from "../runtime/version.ts";
import { summarize, type Summary } from "./statistics.ts";

/** Programs that are compared with, or serve, and how they tell their version. */
export const PROGRAMS: readonly [program: string, flag: string][] = [
  ["haproxy", "-v"],
  ["socat", "-V"],
  ["qemu-system-x86_64", "--version"],
  ["nginx", "-v"],
  ["wrk", "-v"],
  ["redis-server", "--version"],
];
/** How long something that may fail may take, milliseconds: the slowest takes a third of it. */
const ATTEMPT_MAX_MS = 300_000;

/** One value of a series. */
export interface Figure {
  /** What was measured on what. */
  series: string;
  /** Unit of the value; empty for a number of things. */
  unit: string;
  /** The value. */
  value: number;
}

/** A figure that was set before it was measured. */
export interface Target {
  /** What it is about. */
  name: string;
  /** Unit of both values; empty for a number of things. */
  unit: string;
  /** What was measured. */
  value: number;
  /** Which side of `bound` is wanted. */
  wanted: "at most" | "at least";
  /** What was set. */
  bound: number;
  /** Where the time goes, in case it is missed. */
  where?: string;
}

/** What is wanted of a value, and what is known in case it is missed. */
export type Bound = ({ atMost: number } | { atLeast: number }) & { where?: string };

/** What a run leaves behind: the JSON of `bench/out`. */
export interface RunDocument {
  /** Which suite. */
  suite: string;
  /** Where and when. */
  machine: Record<string, unknown>;
  /** What it was told. */
  options: unknown;
  /** Series by section and name. */
  sections: Record<string, Record<string, Series & Summary>>;
  /** Targets, and whether they were met. */
  targets: (Target & { isMet: boolean })[];
  /** What was not measured, and why. */
  skipped: string[];
  /** What failed. */
  failures: string[];
  /** Findings that are words; runs of earlier versions have none. */
  remarks?: string[];
}

/** Values of one measurement. */
export interface Series {
  /** Their unit; empty for a number of things. */
  unit: string;
  /** One for each repetition. */
  values: number[];
}

/** Figures of one run. */
export class Report {
  readonly #suite: string;
  readonly #options: unknown;
  readonly #sections = new Map<string, Map<string, Series>>();
  readonly #failures: string[] = [];
  readonly #skipped: string[] = [];
  readonly #targets: Target[] = [];
  readonly #remarks: string[] = [];
  #machine: Record<string, unknown> = {};
  #expected = 0;
  #attempts = 0;
  #beganMs = 0;
  #headerMs = 0;

  /** Options are written down with the figures. */
  constructor(suite: string, options: unknown) {
    this.#suite = suite;
    this.#options = options;
  }

  /** Whether anything failed. */
  get hasFailures(): boolean {
    return this.#failures.length > 0;
  }

  /** Says how many times {@linkcode attempt} will be called, so that it can tell how far it has come. */
  expect(attempts: number): void {
    this.#expected = attempts;
    this.#beganMs = performance.now();
  }

  /** Prints where this is measured. */
  async printHeader(): Promise<void> {
    this.#headerMs = performance.now();
    this.#machine = {
      at: new Date().toISOString(),
      cpu: cpus()[0]?.model ?? "unknown",
      cores: cpus().length,
      kernel: release(),
      deno: Deno.version.deno,
      v8: Deno.version.v8,
      holdfast: VERSION,
      ...Object.fromEntries(
        await Promise.all(
          PROGRAMS.map(async ([name, flag]) => [name, await versionOf(name, flag)]),
        ),
      ),
      loadAverage: loadavg(),
    };
    const { cpu, cores, kernel, deno, haproxy } = this.#machine;
    console.log(`holdfast ${VERSION} bench ${this.#suite}, ${this.#machine.at}`);
    console.log(`${cores} x ${cpu}, Linux ${kernel}, Deno ${deno}, ${haproxy ?? "no HAProxy"}`);
    console.log(`load ${loadavg().map((load) => load.toFixed(1)).join(" ")} before the run`);
    console.log(
      `All of it shares these ${cores} cores: client, switch, both hosts, servers, daemons, and whatever ` +
        "else runs here.\nCompare figures of one run with each other.",
    );
  }

  /**
   * Begins with the figures of an earlier run; a file that is not there is no such run.
   *
   * @param without What is to be measured anew: its sections, and how failures and remarks of its cases begin.
   * @throws {Error} When the file holds something else, or another suite.
   */
  async load(
    path: string,
    without: { sections: readonly string[]; cases: readonly string[] } = {
      sections: [],
      cases: [],
    },
  ): Promise<void> {
    let earlier: RunDocument;
    try {
      earlier = JSON.parse(await Deno.readTextFile(path));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return;
      throw error;
    }
    if (earlier.suite !== this.#suite) {
      throw new Error(`Cannot add to ${path}: it is of the suite ${earlier.suite}`);
    }
    const isKept = (said: string) => !without.cases.some((what) => said.startsWith(what));
    for (const [section, ofSection] of Object.entries(earlier.sections)) {
      if (without.sections.includes(section)) continue;
      for (const [series, { unit, values }] of Object.entries(ofSection)) {
        this.addAll(section, { series, unit, values });
      }
    }
    this.#failures.push(...earlier.failures.filter(isKept));
    this.#remarks.push(...(earlier.remarks ?? []).filter(isKept));
  }

  /** Adds a value. */
  add(section: string, { series, unit, value }: Figure): void {
    this.addAll(section, { series, unit, values: [value] });
  }

  /** Adds the values of several repetitions. */
  addAll(section: string, figure: Omit<Figure, "value"> & { values: readonly number[] }): void {
    const ofSection = this.#sections.get(section) ?? new Map<string, Series>();
    this.#sections.set(section, ofSection);
    const series = ofSection.get(figure.series) ?? { unit: figure.unit, values: [] };
    ofSection.set(figure.series, series);
    series.values.push(...figure.values);
    const middle = formatValue(summarize(figure.values).median);
    console.error(`${section}: ${figure.series}: ${middle} ${figure.unit}`);
  }

  /** Median of a series; NaN when it has no values. */
  median(section: string, series: string): number {
    return summarize(this.#sections.get(section)?.get(series)?.values ?? []).median;
  }

  /** Largest value of a series; NaN when it has none. */
  most(section: string, series: string): number {
    return summarize(this.#sections.get(section)?.get(series)?.values ?? []).max;
  }

  /** Compares the median of a series with what was set; a series without values is not compared. */
  target(section: string, series: string, bound: Bound): void {
    const found = this.#sections.get(section)?.get(series);
    if (found === undefined || found.values.length === 0) return;
    const { median } = summarize(found.values);
    this.targetValue(`${section}: ${series}`, { unit: found.unit, value: median }, bound);
  }

  /** Compares the 99th percentile of a series with what was set, as {@linkcode target} does. */
  targetP99(section: string, series: string, bound: Bound): void {
    const found = this.#sections.get(section)?.get(series);
    if (found === undefined || found.values.length === 0) return;
    const { p99 } = summarize(found.values);
    this.targetValue(`${section}: ${series}, p99`, { unit: found.unit, value: p99 }, bound);
  }

  /** Compares a value with what was set; what is no number was not measured, and is not compared. */
  targetValue(name: string, measured: { unit: string; value: number }, bound: Bound): void {
    if (!Number.isFinite(measured.value)) return;
    const [wanted, value] = "atMost" in bound
      ? ["at most" as const, bound.atMost]
      : ["at least" as const, bound.atLeast];
    const { where } = bound;
    this.#targets.push({ name, ...measured, wanted, bound: value, where });
  }

  /** Prints what was wanted beside what was measured. */
  printTargets(): void {
    if (this.#targets.length === 0) return;
    console.log("");
    for (const target of this.#targets) {
      const { name, unit, value, wanted, bound, where } = target;
      const verdict = isMet(target) ? "met   " : "MISSED";
      console.log(`${verdict}  ${name}: ${formatValue(value)} ${unit}, wanted ${wanted} ${bound}`);
      if (!isMet(target) && where !== undefined) console.log(`        ${where}`);
    }
  }

  /** Adds to what is said about the machine. */
  note(name: string, text: string): void {
    this.#machine[name] = text;
  }

  /** Names something that is not measured here. */
  skip(what: string, why: string): void {
    const text = `${what}: ${why}`;
    if (this.#skipped.includes(text)) return;
    this.#skipped.push(text);
    console.log(`skipped ${text}`);
  }

  /** Keeps a finding that is words. */
  remark(text: string): void {
    if (!this.#remarks.includes(text)) this.#remarks.push(text);
    console.error(text);
  }

  /**
   * Does something that may fail, or take longer than ATTEMPT_MAX_MS.
   *
   * @returns Whether it did not.
   */
  async attempt(what: string, act: () => Promise<void>): Promise<boolean> {
    console.error(`[${this.#progress()}] ${what}`);
    this.#attempts++;
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      reject(new Error(`not ended after ${ATTEMPT_MAX_MS / 1000} s`));
    }, ATTEMPT_MAX_MS);
    try {
      await Promise.race([act(), late]);
      return true;
    } catch (error) {
      const text = `${what}: ${error instanceof Error ? error.message : error}`;
      this.#failures.push(text);
      console.error(`FAILED ${text}`);
      return false;
    } finally {
      clearTimeout(timer);
    }
  }

  #progress(): string {
    const done = this.#attempts;
    const place = `${this.#suite} ${done + 1} of ${Math.max(this.#expected, done + 1)}`;
    if (done === 0 || done >= this.#expected) return place;
    const leftMs = (performance.now() - this.#beganMs) / done * (this.#expected - done);
    return `${place}, about ${Math.ceil(leftMs / 1000)} s left`;
  }

  /** Prints how an earlier run's figures compare with these. */
  async printAgainst(path: string): Promise<void> {
    const earlier: RunDocument = JSON.parse(await Deno.readTextFile(path));
    printTable([
      [`against ${path}`, "unit", "before", "now", "now / before", ""],
      ...compareRuns(earlier.sections, this.#summaries()),
    ]);
  }

  /** Prints a section as a table. */
  print(section: string): void {
    if (!this.#sections.has(section)) return;
    const rows = [...this.#sections.get(section) ?? []].map(([name, { unit, values }]) => {
      const { median, min, max, p99, count } = summarize(values);
      return [name, unit, ...[median, min, max, p99].map(formatValue), `${count}`];
    });
    printTable([[section, "unit", "median", "min", "max", "p99", "n"], ...rows]);
  }

  /** Writes all of it as JSON. */
  async write(path: string): Promise<void> {
    const seconds = Math.round((performance.now() - this.#headerMs) / 1000);
    const document: RunDocument = {
      suite: this.#suite,
      machine: { ...this.#machine, seconds },
      options: this.#options,
      sections: this.#summaries(),
      targets: this.#targets.map((target) => ({ ...target, isMet: isMet(target) })),
      skipped: this.#skipped,
      failures: this.#failures,
      remarks: this.#remarks,
    };
    await Deno.mkdir(dirname(path), { recursive: true });
    await Deno.writeTextFile(path, JSON.stringify(document, null, 2) + "\n");
    for (const failure of this.#failures) console.log(`FAILED ${failure}`);
    for (const remark of this.#remarks) console.log(remark);
    console.log(`\nwritten to ${path}`);
  }

  #summaries(): RunDocument["sections"] {
    return Object.fromEntries([...this.#sections].map(([section, series]) => [
      section,
      Object.fromEntries(
        [...series].map(([name, one]) => [name, { ...one, ...summarize(one.values) }]),
      ),
    ]));
  }
}

/**
 * How the series that two runs have in common differ.
 *
 * @returns For each: name, unit, both medians, their ratio, and whether their ranges do not meet.
 */
export function compareRuns(
  before: RunDocument["sections"],
  now: RunDocument["sections"],
): string[][] {
  return Object.entries(now).flatMap(([section, series]) =>
    Object.entries(series).flatMap(([name, { unit, median, min, max }]) => {
      const old = before[section]?.[name];
      if (old === undefined) return [];
      const isApart = min > old.max || max < old.min;
      return [[
        `${section}: ${name}`,
        unit,
        formatValue(old.median),
        formatValue(median),
        formatValue(median / old.median),
        isApart ? "ranges do not meet" : "",
      ]];
    })
  );
}

/** Prints rows with their columns aligned: two of text, then numbers. */
function printTable(rows: readonly string[][]): void {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  console.log("");
  for (const row of rows) {
    const cells = row.map((cell, column) =>
      column < 2 ? cell.padEnd(widths[column]) : cell.padStart(widths[column])
    );
    console.log(cells.join("  ").trimEnd());
  }
}

/** Whether what was measured is what was wanted. */
function isMet({ value, wanted, bound }: Target): boolean {
  return wanted === "at most" ? value <= bound : value >= bound;
}

/** Three digits that count, without an exponent. */
export function formatValue(value: number): string {
  const size = Math.abs(value);
  return value.toFixed(Number.isInteger(value) || size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

/** Whether a program is on the PATH. */
export function hasProgram(name: string): boolean {
  const places = (Deno.env.get("PATH") ?? "").split(":");
  return places.some((place) => {
    try {
      return Deno.statSync(`${place}/${name}`).isFile;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
        return false;
      }
      throw error;
    }
  });
}

/** First line of what a program says about its version; null without the program. */
export async function versionOf(program: string, flag: string): Promise<string | null> {
  if (!hasProgram(program)) return null;
  const { stdout, stderr } = await new Deno.Command(program, { args: [flag] }).output();
  const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  return said.split("\n").find((line) => /\d\.\d/.test(line))?.trim() ?? program;
}
