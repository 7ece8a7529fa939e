/**
 * bench_test.ts - the benchmark's statistics, plots, reports and comparison, and what its core suite repeats
 *
 * Plots are read as text: every value must be drawn inside the frame, every word must be there, and
 * nothing may refer to anything outside. A scene of the core suite is repeated for longer than a sample
 * lasts: a figure of an operation that has stopped doing anything would be a lie.
 */

import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { Follower, MIXES } from "../../bench/core_scene.ts";
import { type Experiment, runExperiments } from "../../bench/experiment.ts";
import { plotsOf } from "../../bench/pages.ts";
import { barPlot, linePlot } from "../../bench/plot.ts";
import { compareRuns, formatValue, Report, type RunDocument } from "../../bench/report.ts";
import { summarize } from "../../bench/statistics.ts";

const TEXT = { title: "A <title>", summary: "milliseconds", origin: ["machine", "spread"] };

/** Numbers in the attributes that are places. */
function places(svg: string): number[] {
  const found = svg.matchAll(/ (?:x|x1|x2|y|y1|y2|cx|cy|width|height)="([^"%]+)"/g);
  return [...found].map(([, number]) => Number(number));
}

function checkFrame(svg: string): void {
  const [, width, height] = /viewBox="0 0 (\d+) (\d+)"/.exec(svg) ?? [];
  const most = Math.max(Number(width), Number(height));
  for (const place of places(svg)) ok(place >= 0 && place <= most, `${place} is outside`);
  ok(!/NaN|undefined|Infinity/.test(svg));
  ok(svg.includes("A &#60;title&#62;") && svg.includes("machine") && svg.includes("spread"));
  ok(!/href|url\(/.test(svg));
}

Deno.test("barPlot() draws lengths that are in proportion, with their spread", () => {
  const svg = barPlot(TEXT, [
    { name: "small", value: 10, spread: [5, 20] },
    { name: "large", value: 40, spread: [30, 50], mark: 1 },
  ]);
  checkFrame(svg);
  const lengths = [...svg.matchAll(/<rect class="mark\d" [^>]*width="([\d.]+)"/g)]
    .map(([, width]) => Number(width));
  strictEqual(lengths.length, 2);
  ok(Math.abs(lengths[1] / lengths[0] - 4) < 0.01, `${lengths}`);
});

Deno.test("linePlot() puts equal factors at equal distances on a logarithmic axis", () => {
  const points = [1, 10, 100].map((x) => ({ x, y: x, spread: [x / 2, x * 2] as [number, number] }));
  const svg = linePlot(TEXT, [{ name: "curve", points }], {
    xName: "things",
    logX: true,
    logY: true,
  });
  checkFrame(svg);
  const xs = [...svg.matchAll(/<circle [^>]*cx="([\d.]+)"/g)].map(([, x]) => Number(x));
  strictEqual(xs.length, 3);
  ok(Math.abs((xs[2] - xs[1]) - (xs[1] - xs[0])) < 0.2, `${xs}`);
});

Deno.test("Report tells a missed target from a met one, and adds to an earlier run", async () => {
  const directory = await Deno.makeTempDir({ prefix: "holdfast-test-" });
  try {
    const path = `${directory}/run.json`;
    const first = new Report("suite", {});
    first.add("part", { series: "time", unit: "ms", value: 10 });
    await first.write(path);
    const second = new Report("suite", {});
    await second.load(path);
    second.addAll("part", { series: "time", unit: "ms", values: [20, 30] });
    second.target("part", "time", { atMost: 15 });
    second.target("part", "time", { atLeast: 15 });
    second.target("part", "unknown", { atMost: 1 });
    await second.write(path);
    const { sections, targets } = JSON.parse(await Deno.readTextFile(path));
    deepStrictEqual(sections.part.time.values, [10, 20, 30]);
    deepStrictEqual(targets.map(({ isMet }: { isMet: boolean }) => isMet), [false, true]);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("summarize() gives values that were measured", () => {
  const values = Array.from({ length: 100 }, (_, i) => i + 1);
  deepStrictEqual(summarize(values), { count: 100, min: 1, median: 50, p99: 99, max: 100 });
  strictEqual(formatValue(1234.5), "1235");
  strictEqual(formatValue(0.5), "0.50");
});

/** A run with one series for each name. */
function runOf(suite: string, sections: Record<string, Record<string, number[]>>): RunDocument {
  return {
    suite,
    machine: {
      ...{ cpu: "machine", cores: 2, kernel: "6", deno: "2", holdfast: "0", at: "today" },
      ...{ nginx: "nginx version: nginx/1.22.1", socat: null },
    },
    options: {},
    sections: Object.fromEntries(
      Object.entries(sections).map(([section, series]) => [
        section,
        Object.fromEntries(
          Object.entries(series).map(([name, values]) => [
            name,
            { unit: "ms", values, ...summarize(values) },
          ]),
        ),
      ]),
    ),
    targets: [],
    skipped: [],
    failures: [],
  };
}

Deno.test("compareRuns() compares what both have, and tells ranges that do not meet", () => {
  const before = runOf("suite", { part: { same: [1, 2, 3], apart: [10, 11], gone: [1] } });
  const now = runOf("suite", { part: { same: [2, 3, 4], apart: [20, 22], fresh: [1] } });
  deepStrictEqual(compareRuns(before.sections, now.sections), [
    ["part: same", "ms", "2", "3", "1.50", ""],
    ["part: apart", "ms", "10", "20", "2", "ranges do not meet"],
  ]);
});

Deno.test("Report names what fails and goes on, and keeps the schema of its JSON", async () => {
  const directory = await Deno.makeTempDir({ prefix: "holdfast-test-" });
  try {
    const path = `${directory}/run.json`;
    const report = new Report("suite", { rounds: 2 });
    strictEqual(await report.attempt("bad", () => Promise.reject(new Error("why"))), false);
    strictEqual(await report.attempt("good", () => Promise.resolve()), true);
    report.add("part", { series: "time", unit: "ms", value: 10 });
    report.target("part", "time", { atMost: 5, where: "here" });
    report.targetValue("not measured", { unit: "x", value: NaN }, { atMost: 5 });
    report.skip("peer", "not installed");
    report.skip("peer", "not installed");
    report.remark("a finding");
    await report.write(path);
    const { machine, ...rest } = JSON.parse(await Deno.readTextFile(path));
    ok(Number.isFinite(machine.seconds));
    deepStrictEqual(rest, {
      suite: "suite",
      options: { rounds: 2 },
      sections: {
        part: {
          time: { unit: "ms", values: [10], count: 1, min: 10, median: 10, p99: 10, max: 10 },
        },
      },
      targets: [{
        name: "part: time",
        unit: "ms",
        value: 10,
        wanted: "at most",
        bound: 5,
        where: "here",
        isMet: false,
      }],
      skipped: ["peer: not installed"],
      failures: ["bad: why"],
      remarks: ["a finding"],
    });
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("runExperiments() takes turns, gives trials rounds of their own, skips what lacks a program", async () => {
  const report = new Report("suite", {});
  const done: string[] = [];
  const experiment = (name: string, isTrial: boolean, needs?: string[]): Experiment => ({
    name,
    isTrial,
    cases: () => [{ what: name, needs, act: () => Promise.resolve(void done.push(name)) }],
  });
  await runExperiments(report, [
    experiment("measured", false),
    experiment("tried", true),
    experiment("lacking", false, ["holdfast-no-such-program"]),
  ], { rounds: 3, trials: 1, quick: false });
  deepStrictEqual(done, ["measured", "tried", "measured", "measured"]);
});

Deno.test("plotsOf() draws each section of a run", () => {
  const curve = (...names: string[]) =>
    Object.fromEntries(
      names.flatMap((name) =>
        [1, 100, 10_000].map((x) => [`${x.toLocaleString("en")}: ${name}`, [x, 2 * x]])
      ),
    );
  const bars = (...names: string[]) => Object.fromEntries(names.map((name) => [name, [1, 2]]));
  const runs: [run: RunDocument, plots: string[]][] = [
    [
      runOf("papers", {
        heartbeat: { "3 ms: gap": [10], "200 ms: gap": [700] },
        exchanges: bars("Echo: plain", "Echo: hot, 10 ms"),
        failures: bars("host crash, primary: gap of the download"),
        logged: curve("log", "log: start", "disk", "hot"),
        connected: curve("log", "hot"),
        clients: curve("plain", "hot"),
        disk: bars("the disk, groups of 4 KiB: rate", "upload, log"),
        degraded: bars("below 60 %: rate"),
        moves: curve("nobody spoke"),
        daemons: bars("nginx, curl: survived"),
      }),
      [
        ..."heartbeat exchanges logged connected clients moves failures disk degraded".split(" "),
      ].map((name) => `papers-${name}`),
    ],
    [
      runOf("path", {
        bulk: bars("download plain"),
        cpu: bars("download plain: all", "upload plain: all"),
        pingpong: bars("p50 plain"),
        connects: bars("plain"),
        requests: bars("plain"),
        crowd: curve("hot: CPU for a connection", "hot: CPU for a KiB"),
      }),
      "bulk cpu pingpong connects requests crowd".split(" ").map((name) => `path-${name}`),
    ],
  ];
  for (const [run, names] of runs) {
    const plots = plotsOf(run);
    deepStrictEqual(plots.map(({ name }) => name), names);
    for (const { svg } of plots) {
      ok(!/NaN|undefined|Infinity|null/.test(svg));
      for (const word of ["machine", "Linux 6", "nginx 1.22.1", "today"]) {
        ok(svg.includes(word), word);
      }
    }
  }
});

Deno.test("the core suite has every mix of options once", () => {
  strictEqual(new Set(MIXES.map(({ name }) => name)).size, MIXES.length);
  strictEqual(MIXES.length, 2 * (2 * 2 * 2 + 2 * 3));
});

Deno.test("Follower still stores and feeds after more octets than half of the sequence numbers", () => {
  const scene = new Follower(32, { length: 1448, reversed: false });
  // Every so often it asserts itself that its server has got all of it.
  const rounds = Math.ceil(2 ** 31 * 1.3 / (32 * 1448));
  for (let i = 0; i < rounds; i++) scene.round();
  ok(scene.told > 2, `${scene.told} checks`);
});
