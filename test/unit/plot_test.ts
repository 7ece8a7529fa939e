/**
 * plot_test.ts - the benchmark's plots and statistics
 *
 * Plots are read as text: every value must be drawn inside the frame, every word must be there, and
 * nothing may refer to anything outside.
 */

import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { barPlot, linePlot } from "../../bench/plot.ts";
import { formatValue, Report } from "../../bench/report.ts";
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
