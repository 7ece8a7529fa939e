/**
 * report.ts - collects figures, prints them as tables, writes them as JSON
 *
 * Theory of operation
 * A section holds series; a series holds the values of one measurement, one per repetition. Failures are
 * figures too: they are printed where they happen and stand in the JSON, and the run goes on.
 *
 * Diagnosis goes to standard error as it happens, tables to standard output.
 */

import { cpus, loadavg, release } from "node:os";
import { dirname } from "node:path";
import { VERSION } from "../runtime/version.ts";
import { summarize, type Summary } from "./statistics.ts";

/** One value of a series. */
export interface Figure {
  /** What was measured on what. */
  series: string;
  /** Unit of the value; empty for a number of things. */
  unit: string;
  /** The value. */
  value: number;
}

interface Series {
  unit: string;
  values: number[];
}

/** Figures of one run. */
export class Report {
  readonly #suite: string;
  readonly #options: unknown;
  readonly #sections = new Map<string, Map<string, Series>>();
  readonly #failures: string[] = [];
  readonly #skipped: string[] = [];
  #machine: Record<string, unknown> = {};

  /** Options are written down with the figures. */
  constructor(suite: string, options: unknown) {
    this.#suite = suite;
    this.#options = options;
  }

  /** Whether anything failed. */
  get hasFailures(): boolean {
    return this.#failures.length > 0;
  }

  /** Prints where this is measured. */
  async printHeader(): Promise<void> {
    this.#machine = {
      at: new Date().toISOString(),
      cpu: cpus()[0]?.model ?? "unknown",
      cores: cpus().length,
      kernel: release(),
      deno: Deno.version.deno,
      v8: Deno.version.v8,
      holdfast: VERSION,
      haproxy: await versionOf("haproxy", "-v"),
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

  /** Adds a value. */
  add(section: string, figure: Figure): void {
    const ofSection = this.#sections.get(section) ?? new Map<string, Series>();
    this.#sections.set(section, ofSection);
    const series = ofSection.get(figure.series) ?? { unit: figure.unit, values: [] };
    ofSection.set(figure.series, series);
    series.values.push(figure.value);
    console.error(`${section}: ${figure.series}: ${figure.value.toFixed(1)} ${figure.unit}`);
  }

  /** Names something that is not measured here. */
  skip(what: string, why: string): void {
    this.#skipped.push(`${what}: ${why}`);
    console.log(`skipped ${what}: ${why}`);
  }

  /**
   * Does something that may fail.
   *
   * @returns Whether it did not.
   */
  async attempt(what: string, act: () => Promise<void>): Promise<boolean> {
    try {
      await act();
      return true;
    } catch (error) {
      const text = `${what}: ${error instanceof Error ? error.message : error}`;
      this.#failures.push(text);
      console.error(`FAILED ${text}`);
      return false;
    }
  }

  /** Prints a section as a table. */
  print(section: string): void {
    const rows = [...this.#sections.get(section) ?? []].map(([name, { unit, values }]) => {
      const { median, min, max, p99, count } = summarize(values);
      return [name, unit, ...[median, min, max, p99].map((value) => value.toFixed(1)), `${count}`];
    });
    const head = [section, "unit", "median", "min", "max", "p99", "n"];
    const widths = head.map((_, column) =>
      Math.max(...[head, ...rows].map((row) => row[column].length))
    );
    console.log("");
    for (const row of [head, ...rows]) {
      const cells = row.map((cell, column) =>
        column < 2 ? cell.padEnd(widths[column]) : cell.padStart(widths[column])
      );
      console.log(cells.join("  "));
    }
  }

  /** Writes all of it as JSON. */
  async write(path: string): Promise<void> {
    const sections: Record<string, Record<string, Series & Summary>> = {};
    for (const [name, ofSection] of this.#sections) {
      sections[name] = Object.fromEntries(
        [...ofSection].map(([name, series]) => [name, { ...series, ...summarize(series.values) }]),
      );
    }
    const document = {
      suite: this.#suite,
      machine: this.#machine,
      options: this.#options,
      sections,
      skipped: this.#skipped,
      failures: this.#failures,
    };
    await Deno.mkdir(dirname(path), { recursive: true });
    await Deno.writeTextFile(path, JSON.stringify(document, null, 2) + "\n");
    for (const failure of this.#failures) console.log(`FAILED ${failure}`);
    console.log(`\nwritten to ${path}`);
  }
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
async function versionOf(program: string, flag: string): Promise<string | null> {
  if (!hasProgram(program)) return null;
  const { stdout } = await new Deno.Command(program, { args: [flag] }).output();
  return new TextDecoder().decode(stdout).split("\n")[0];
}
