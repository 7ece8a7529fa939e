/**
 * picture.ts - throughput over time as an SVG that needs nothing beside itself
 *
 * Theory of operation
 * Two panels: above, the whole transfer; below, the time around the fault, where the gap is shaded and the
 * steps of the takeover are marked. svg.ts says how it looks.
 *
 *   0    WIDTH
 *   |    title, summary
 *   |    panel "whole transfer"        panel.x .. panel.x + panel.width
 *   |    panel "around the fault"
 *   |    the steps, one line each
 */

import { formatRate, niceCeiling } from "./chart.ts";
import { roundNumbers, svg, svgRound as round, svgText as text } from "./svg.ts";

const WIDTH = 960;
const PANEL = { x: 84, width: WIDTH - 84 - 32, height: 170 };
/** Points of the curve in one panel, at most. */
const POINTS_MAX = 440;
/** Time shown before the fault and after the gap, in milliseconds. */
const BEFORE_MS = 60;
const AFTER_MS = 120;
/** Longest time in the lower panel. */
const DETAIL_MS_MAX = 2000;

/** Something that happened. */
export interface PictureEvent {
  /** Milliseconds from the first bin on. */
  atMs: number;
  /** What it was. */
  text: string;
}

/** What the picture shows. */
export interface PictureOptions {
  /** First line. */
  title: string;
  /** Second line. */
  summary: string;
  /** Octets in each bin. */
  bins: readonly number[];
  /** Width of a bin, milliseconds. */
  binMs: number;
  /** The longest time without an octet, in milliseconds from the first bin on. */
  gap: { fromMs: number; toMs: number };
  /** What was done to the primary; null when nothing was. */
  fault: PictureEvent | null;
  /** What followed. */
  events: readonly PictureEvent[];
}

/** What this picture has beside what all have. */
const STYLE = `
  .panel, .bad, .number { font-weight: 600; }
  .area { fill-opacity: .16; } .shade { fill-opacity: .14; } .fault { stroke-width: 1.5; }
  .step { stroke-dasharray: 3 3; }`;

/** Draws the picture. */
export function picture(options: PictureOptions): string {
  const { title, summary, bins, binMs, gap, fault, events } = options;
  const lengthMs = Math.max(binMs, bins.length * binMs);
  const parts = [
    text(PANEL.x, 38, title, "title"),
    text(PANEL.x, 60, summary, "faint"),
    text(PANEL.x, 92, "Whole transfer", "panel"),
    panel(options, { top: 102, fromMs: 0, toMs: lengthMs, isDetail: false }),
  ];
  let bottom = 102 + PANEL.height + 40;
  if (fault !== null) {
    const fromMs = Math.max(0, Math.min(fault.atMs, gap.fromMs) - BEFORE_MS);
    const toMs = Math.min(
      lengthMs,
      fromMs + DETAIL_MS_MAX,
      Math.max(gap.toMs, ...ends(events)) + AFTER_MS,
    );
    parts.push(
      text(PANEL.x, bottom + 18, "Around the fault", "panel"),
      panel(options, {
        top: bottom + 28,
        fromMs,
        toMs: Math.max(toMs, fromMs + 10),
        isDetail: true,
      }),
    );
    bottom += 28 + PANEL.height + 68;
    parts.push(text(PANEL.x, bottom, fault.text, "bad"));
    for (const [index, event] of events.entries()) {
      bottom += 20;
      const delay = event.atMs - fault.atMs;
      parts.push(
        text(PANEL.x + 4, bottom, `${index + 1}`, "number"),
        text(
          PANEL.x + 108,
          bottom,
          `${delay < 0 ? "−" : "+"}${Math.abs(delay).toFixed(1)} ms`,
          "right",
        ),
        text(PANEL.x + 124, bottom, event.text, ""),
      );
    }
  }
  return svg({
    width: WIDTH,
    height: bottom + 28,
    label: `${title}. ${summary}`,
    style: STYLE,
    parts,
  });
}

interface Span {
  /** Upper edge, in the picture's units. */
  top: number;
  /** Time shown, milliseconds. */
  fromMs: number;
  toMs: number;
  /** Whether steps are marked and times are told from the fault on. */
  isDetail: boolean;
}

function panel(options: PictureOptions, span: Span): string {
  const { bins, binMs, gap, fault, events } = options;
  const { top, fromMs, toMs, isDetail } = span;
  const points = ratesBetween(bins, { binMs, fromMs, toMs });
  const highest = niceCeiling(Math.max(1, ...points.map(({ rate }) => rate)));
  const base = top + PANEL.height;
  const x = (ms: number) =>
    round(PANEL.x + (clamp(ms, fromMs, toMs) - fromMs) / (toMs - fromMs) * PANEL.width);
  const y = (rate: number) => round(base - rate / highest * PANEL.height);
  const parts: string[] = [];
  for (const share of [0, 0.5, 1]) {
    const at = y(highest * share);
    parts.push(
      `<line class="grid" x1="${PANEL.x}" x2="${PANEL.x + PANEL.width}" y1="${at}" y2="${at}"/>`,
      text(PANEL.x - 10, at + 4, share === 0 ? "0" : formatRate(highest * share), "faint right"),
    );
  }
  const originMs = isDetail && fault !== null ? fault.atMs : 0;
  for (const ms of roundNumbers(fromMs - originMs, toMs - originMs)) {
    parts.push(text(x(ms + originMs), base + 20, tickText(ms, isDetail), "faint middle"));
  }
  const line = points.map(({ atMs, rate }) => `${x(atMs)},${y(rate)}`).join(" ");
  parts.push(
    `<polygon class="area" points="${x(fromMs)},${base} ${line} ${x(toMs)},${base}"/>`,
    `<polyline class="line" points="${line}"/>`,
  );
  if (fault !== null) {
    const width = Math.max(1, round(x(gap.toMs) - x(gap.fromMs)));
    parts.push(
      `<rect class="shade" x="${
        x(gap.fromMs)
      }" y="${top}" width="${width}" height="${PANEL.height}"/>`,
      `<line class="fault" x1="${x(fault.atMs)}" x2="${x(fault.atMs)}" y1="${
        top - 4
      }" y2="${base}"/>`,
    );
  }
  if (isDetail) {
    const label = `${(gap.toMs - gap.fromMs).toFixed(1)} ms`;
    parts.push(text(x((gap.fromMs + gap.toMs) / 2), top + 18, label, "bad middle"));
    let lastX = -Infinity;
    for (const [index, { atMs }] of events.entries()) {
      const at = x(atMs);
      // Numbers of steps that are close to each other are moved apart.
      lastX = Math.max(at, lastX + 11);
      parts.push(
        `<line class="step" x1="${at}" x2="${at}" y1="${top}" y2="${base + 26}"/>`,
        text(lastX, base + 40, `${index + 1}`, "number middle"),
      );
    }
  }
  return parts.join("\n");
}

/** Octets per second from `fromMs` to `toMs`, in at most POINTS_MAX points. */
function ratesBetween(
  bins: readonly number[],
  { binMs, fromMs, toMs }: { binMs: number; fromMs: number; toMs: number },
): { atMs: number; rate: number }[] {
  const first = Math.floor(fromMs / binMs);
  const last = Math.min(bins.length, Math.ceil(toMs / binMs));
  const step = Math.max(1, Math.ceil((last - first) / POINTS_MAX));
  const points: { atMs: number; rate: number }[] = [];
  for (let at = first; at < last; at += step) {
    const some = bins.slice(at, Math.min(last, at + step));
    const octets = some.reduce((sum, bin) => sum + bin, 0);
    points.push({
      atMs: (at + some.length / 2) * binMs,
      rate: octets * 1000 / (some.length * binMs),
    });
  }
  return points;
}

function tickText(ms: number, isDetail: boolean): string {
  if (!isDetail) return `${Number((ms / 1000).toFixed(2))} s`;
  const sign = ms < 0 ? "−" : ms > 0 ? "+" : "";
  return `${sign}${Number(Math.abs(ms).toFixed(2))} ms`;
}

function ends(events: readonly PictureEvent[]): number[] {
  return events.map(({ atMs }) => atMs);
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}
