/**
 * svg.ts - what all our pictures share: frame, colours, text, round numbers
 *
 * Theory of operation
 * A picture is one SVG that needs nothing beside itself. It has a background and colours of its own for
 * readers who prefer light or dark (prefers-color-scheme), so it can be put on any page. Shapes do not
 * depend on the scheme, colours do; they stand as plain values, as not every viewer knows var().
 *
 * Classes: title, faint, right, middle, grid, line, area, shade, bad, fault, step, number, and mark0 to
 * mark3 for things that are compared.
 *
 * Sources: SVG 1.1; Media Queries Level 5 section 11.5 (prefers-color-scheme).
 */

/** Colours by role: light, dark. */
const COLORS = {
  ground: ["#ffffff", "#10171f"],
  ink: ["#1b2733", "#e6edf3"],
  faint: ["#64748b", "#93a4b5"],
  grid: ["#e2e8f0", "#26323f"],
  line: ["#0f766e", "#2dd4bf"],
  bad: ["#dc2626", "#f87171"],
  step: ["#b45309", "#fbbf24"],
  other: ["#4f46e5", "#a5b4fc"],
} as const;

const MARKS = ["line", "step", "other", "bad"] as const;
/** How many things a picture can compare by colour. */
export const MARK_COUNT: number = MARKS.length;

const STYLE = `
  svg { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
  .title { font-size: 19px; font-weight: 600; } .right { text-anchor: end; }
  .middle { text-anchor: middle; } .line { fill: none; stroke-width: 1.5; stroke-linejoin: round; }`;

function colorRules(scheme: 0 | 1): string {
  const color = (role: keyof typeof COLORS) => COLORS[role][scheme];
  const marks = MARKS.map((role, index) =>
    `.mark${index} { fill: ${color(role)} } .curve${index} { stroke: ${color(role)} }`
  );
  return `.ground { fill: ${color("ground")} } text { fill: ${color("ink")} } ` +
    `.faint { fill: ${color("faint")} } .grid { stroke: ${color("grid")} } ` +
    `.line { stroke: ${color("line")} } .area { fill: ${color("line")} } ` +
    `.shade, .bad { fill: ${color("bad")} } .fault { stroke: ${color("bad")} } ` +
    `.step { stroke: ${color("step")} } .number { fill: ${color("step")} } ` +
    `.whisker { stroke: ${color("ink")} } ${marks.join(" ")}`;
}

/** What a picture is made of. */
export interface SvgOptions {
  /** Width, in the picture's units. */
  width: number;
  /** Height. */
  height: number;
  /** What it shows, for those who cannot see it. */
  label: string;
  /** Rules of its own. */
  style?: string;
  /** Its elements. */
  parts: readonly string[];
}

/** A whole picture. */
export function svg({ width, height, label, style = "", parts }: SvgOptions): string {
  const rules = `${STYLE}${style}\n  ${colorRules(0)}\n` +
    `  @media (prefers-color-scheme: dark) { ${colorRules(1)} }`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ` +
    `width="${width}" height="${height}" role="img" aria-label="${escapeText(label)}">\n` +
    `<style>${rules}\n</style>\n<rect class="ground" width="100%" height="100%" rx="10"/>\n` +
    `${parts.join("\n")}\n</svg>\n`;
}

/** A line of text. */
export function svgText(x: number, y: number, content: string, name: string): string {
  return `<text x="${svgRound(x)}" y="${svgRound(y)}" class="${name}">${
    escapeText(content)
  }</text>`;
}

/** Text that stands between tags or quotes. */
export function escapeText(content: string): string {
  return content.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** A tenth of a unit is all that can be seen. */
export function svgRound(value: number): number {
  return Math.round(value * 10) / 10;
}

/** Round numbers between two others, 4 to 10 of them. */
export function roundNumbers(from: number, to: number): number[] {
  const raw = (to - from) / 8;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 5].find((factor) => factor * power >= raw) ?? 10) * power;
  const list: number[] = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) list.push(at);
  return list;
}
