/**
 * plot.ts - the two kinds of plots that reports are made of, as SVG
 *
 * Theory of operation
 * No plotting library: those that are kept up need a DOM, or bring one along; two kinds of plots are less
 * than their glue, and svg.ts gives frame and colours.
 *
 *   barPlot    one row for each thing: a bar to the median, a whisker from least to greatest value
 *   linePlot   curves over a number; axes linear or logarithmic, whiskers where a point has a spread
 *
 * Every plot ends with where and how it was measured.
 */

import { niceCeiling } from "../runtime/lab/chart.ts";
import { MARK_COUNT, roundNumbers, svg, svgRound, svgText } from "../runtime/lab/svg.ts";
import { formatValue } from "./report.ts";

const WIDTH = 960;
const MARGIN = 32;
const ROW = 26;
const BAR = 14;
const PANEL_HEIGHT = 300;
const STYLE = `
  .curve { fill: none; stroke-width: 2; stroke-linejoin: round; } .whisker { stroke-width: 1.2; }`;

/** One bar. */
export interface Bar {
  /** What it is. */
  name: string;
  /** Median. */
  value: number;
  /** Least and greatest value. */
  spread: [number, number];
  /** Things that are compared across rows have a colour in common: 0 to 3. */
  mark?: number;
}

/** Words around a plot. */
export interface PlotText {
  /** First line. */
  title: string;
  /** Second line: what is shown, and its unit. */
  summary: string;
  /** Last lines: machine, versions, what the shapes mean. */
  origin: readonly string[];
}

/** Rows of bars. */
export function barPlot(text: PlotText, bars: readonly Bar[]): string {
  const left = MARGIN + Math.max(...bars.map(({ name }) => name.length)) * 7;
  const width = WIDTH - left - 110;
  const highest = niceCeiling(Math.max(Number.MIN_VALUE, ...bars.map(({ spread }) => spread[1])));
  const top = 84;
  const base = top + bars.length * ROW;
  const x = (value: number) => svgRound(left + Math.max(0, value) / highest * width);
  const parts = head(text);
  for (const value of roundNumbers(0, highest)) {
    const at = x(value);
    parts.push(
      `<line class="grid" x1="${at}" x2="${at}" y1="${top}" y2="${base}"/>`,
      svgText(at, base + 18, formatTick(value), "faint middle"),
    );
  }
  for (const [index, { name, value, spread, mark = 0 }] of bars.entries()) {
    const middle = top + index * ROW + ROW / 2;
    const length = svgRound(x(value) - left);
    parts.push(
      svgText(left - 10, middle + 4, name, "right"),
      `<rect class="mark${mark % MARK_COUNT}" x="${left}" y="${
        middle - BAR / 2
      }" width="${length}" height="${BAR}" rx="2"/>`,
      `<line class="whisker" x1="${x(spread[0])}" x2="${
        x(spread[1])
      }" y1="${middle}" y2="${middle}"/>`,
      svgText(x(spread[1]) + 8, middle + 4, formatValue(value), "faint"),
    );
  }
  return finish(text, base + 44, parts);
}

/** A curve. */
export interface Curve {
  /** What it is. */
  name: string;
  /** Its points, by `x`; `spread` where the value was measured more than once. */
  points: readonly { x: number; y: number; spread?: [number, number] }[];
}

/** How the axes are divided. */
export interface Axes {
  /** What stands below. */
  xName: string;
  /** Logarithmic axes; only numbers above 0 are shown on them. */
  logX?: boolean;
  /** As `logX`. */
  logY?: boolean;
  /** Whether a value holds until the next point. */
  steps?: boolean;
}

/** Curves over a number. */
export function linePlot(text: PlotText, curves: readonly Curve[], axes: Axes): string {
  const { xName, logX = false, logY = false, steps = false } = axes;
  const points = curves.flatMap((curve) => curve.points);
  const across = scaleOf(points.map((point) => point.x), logX);
  const ys = points.flatMap(({ y, spread }) => spread === undefined ? [y] : [y, ...spread]);
  const up = scaleOf(ys, logY);
  const left = MARGIN + 52;
  const width = WIDTH - left - MARGIN;
  const top = 106;
  const base = top + PANEL_HEIGHT;
  const x = (value: number) => svgRound(left + across.place(value) * width);
  const y = (value: number) => svgRound(base - up.place(value) * PANEL_HEIGHT);
  const parts = head(text);
  for (const value of up.ticks) {
    parts.push(
      `<line class="grid" x1="${left}" x2="${left + width}" y1="${y(value)}" y2="${y(value)}"/>`,
      svgText(left - 10, y(value) + 4, formatTick(value), "faint right"),
    );
  }
  for (const value of across.ticks) {
    parts.push(svgText(x(value), base + 20, formatTick(value), "faint middle"));
  }
  parts.push(svgText(left + width / 2, base + 42, xName, "faint middle"));
  let legend = left;
  for (const [index, { name, points }] of curves.entries()) {
    const mark = index % MARK_COUNT;
    parts.push(
      `<rect class="mark${mark}" x="${legend}" y="80" width="12" height="12" rx="2"/>`,
      svgText(legend + 18, 91, name, ""),
      pathOf(points.map((point) => [x(point.x), y(point.y)]), { mark, steps }),
    );
    legend += 44 + name.length * 7;
    for (const point of points) {
      if (!steps) {
        parts.push(`<circle class="mark${mark}" cx="${x(point.x)}" cy="${y(point.y)}" r="3.5"/>`);
      }
      if (point.spread === undefined) continue;
      const [least, most] = point.spread;
      const at = x(point.x);
      parts.push(`<line class="whisker" x1="${at}" x2="${at}" y1="${y(least)}" y2="${y(most)}"/>`);
    }
  }
  return finish(text, base + 62, parts);
}

function pathOf(
  places: readonly number[][],
  { mark, steps }: { mark: number; steps: boolean },
): string {
  const words = places.map(([x, y], index) =>
    index === 0 ? `M${x} ${y}` : steps ? `H${x}V${y}` : `L${x} ${y}`
  );
  return `<path class="curve curve${mark}" d="${words.join("")}"/>`;
}

interface Scale {
  /** 0 to 1 along the axis. */
  place: (value: number) => number;
  ticks: number[];
}

function scaleOf(values: readonly number[], isLog: boolean): Scale {
  if (!isLog) {
    const highest = niceCeiling(Math.max(Number.MIN_VALUE, ...values));
    return { place: (value) => value / highest, ticks: roundNumbers(0, highest) };
  }
  const positive = values.filter((value) => value > 0);
  const from = Math.floor(Math.log10(Math.min(...positive)));
  const to = Math.max(from + 1, Math.ceil(Math.log10(Math.max(...positive))));
  const ticks = Array.from({ length: to - from + 1 }, (_, i) => 10 ** (from + i));
  const place = (value: number) => {
    return Math.max(0, (Math.log10(Math.max(value, 10 ** from)) - from) / (to - from));
  };
  return { place, ticks };
}

function head({ title, summary }: PlotText): string[] {
  return [svgText(MARGIN, 38, title, "title"), svgText(MARGIN, 60, summary, "faint")];
}

function finish({ title, summary, origin }: PlotText, bottom: number, parts: string[]): string {
  for (const line of origin) {
    bottom += 18;
    parts.push(svgText(MARGIN, bottom, line, "faint"));
  }
  const label = `${title}. ${summary}`;
  return svg({ width: WIDTH, height: bottom + 20, label, style: STYLE, parts });
}

function formatTick(value: number): string {
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
  if (value >= 1e4) return `${Number((value / 1e3).toPrecision(3))} k`;
  return `${Number(value.toPrecision(3))}`;
}
