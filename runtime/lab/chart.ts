/**
 * chart.ts - throughput over time in a terminal
 *
 * Theory of operation
 * Bins become columns, a column of rows with blocks of one eighth (U+2581 to U+2588). Columns that
 * touch a marked time are drawn in red, so that what happened there can be found. Nothing here writes;
 * {@linkcode LiveArea} does: it draws lines and, the next time, goes back up and draws over them.
 *
 * Sources: ECMA-48 (CUU "\x1b[nA", EL "\x1b[2K", SGR "\x1b[31m").
 */

const EIGHTHS = " ▁▂▃▄▅▆▇█";
const RED = "\x1b[31m";
const CYAN = "\x1b[36m";
const PLAIN = "\x1b[0m";
/** Characters left of the chart: "9.99 GB/s ┤". */
const LABEL_WIDTH = 11;

/** What is drawn. */
export interface ChartOptions {
  /** Octets in each bin. */
  bins: readonly number[];
  /** Width of a bin, milliseconds. */
  binMs: number;
  /** A time that is marked, in milliseconds from the first bin on; null for none. */
  markMs: number | null;
  /** Characters from the left to the right edge. */
  width: number;
  /** Rows of blocks. */
  height: number;
  /** Whether escape sequences for colours are wanted. */
  color: boolean;
}

/**
 * Draws a chart.
 *
 * @returns Its lines: `height` rows, and one with the time.
 */
export function chartLines(options: ChartOptions): string[] {
  const { bins, binMs, markMs, width, height, color } = options;
  const columns = Math.max(1, width - LABEL_WIDTH - 1);
  const binsPerColumn = Math.max(1, Math.ceil(bins.length / columns));
  const rates = columnRates(bins, { binMs, binsPerColumn });
  const top = niceCeiling(Math.max(1, ...rates));
  const marked = markMs === null ? -1 : Math.floor(markMs / binMs / binsPerColumn);
  const lines: string[] = [];
  for (let row = height - 1; row >= 0; row--) {
    let line = "";
    for (const [column, rate] of rates.entries()) {
      const eighths = Math.round(rate / top * height * 8) - row * 8;
      const isMarked = column === marked;
      const mark = isMarked && eighths <= 0 ? "│" : EIGHTHS[Math.max(0, Math.min(8, eighths))];
      line += color && isMarked ? `${RED}${mark}${CYAN}` : mark;
    }
    const label = row === height - 1 ? formatRate(top) : row === 0 ? "0" : "";
    const edge = `${label.padStart(LABEL_WIDTH - 2)} ${
      row === height - 1 || row === 0 ? "┤" : "│"
    }`;
    lines.push(color ? `${edge}${CYAN}${line}${PLAIN}` : `${edge}${line}`);
  }
  const seconds = (bins.length * binMs / 1000).toFixed(1);
  const end = `${seconds} s`.padStart(Math.max(1, rates.length - 3));
  lines.push(`${" ".repeat(LABEL_WIDTH - 1)}└0 s${end.slice(0, columns)}`);
  return lines;
}

/** Octets per second of each column. */
function columnRates(
  bins: readonly number[],
  { binMs, binsPerColumn }: { binMs: number; binsPerColumn: number },
): number[] {
  const rates: number[] = [];
  for (let from = 0; from < bins.length; from += binsPerColumn) {
    const column = bins.slice(from, from + binsPerColumn);
    const octets = column.reduce((sum, bin) => sum + bin, 0);
    rates.push(octets * 1000 / (column.length * binMs));
  }
  return rates;
}

/** The next of 1, 1.5, 2, 3, 5, 7 and their multiples by ten. */
export function niceCeiling(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 1.5, 2, 3, 5, 7, 10].find((step) => step * power >= value) ?? 10;
  return step * power;
}

/** Octets per second for people: "950 MB/s", "1.25 GB/s". */
export function formatRate(octetsPerSecond: number): string {
  const units = ["B/s", "kB/s", "MB/s", "GB/s"];
  let value = octetsPerSecond;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${Number(value.toPrecision(3))} ${units[unit]}`;
}

/** Lines at the bottom of a terminal that are drawn again and again in one place. */
export class LiveArea {
  #height = 0;

  /** Draws lines over those of the last time; each must fit the terminal's width. */
  draw(lines: readonly string[]): void {
    const up = this.#height === 0 ? "" : `\x1b[${this.#height}A`;
    const blank = Math.max(0, this.#height - lines.length);
    const text = [...lines, ...Array(blank).fill("")].map((line) => `\x1b[2K${line}\n`).join("");
    this.#height = lines.length + blank;
    writeOut(up + text);
  }
}

/** Writes all of a text on standard output. */
export function writeOut(text: string): void {
  const octets = new TextEncoder().encode(text);
  for (let at = 0; at < octets.length;) at += Deno.stdout.writeSync(octets.subarray(at));
}

/** Width of the terminal in characters; 100 when there is none. */
export function terminalWidth(): number {
  try {
    return Math.max(40, Deno.consoleSize().columns);
  } catch {
    return 100;
  }
}
