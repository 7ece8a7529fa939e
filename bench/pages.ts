/**
 * pages.ts - what the last runs found, as README.md with pictures and as one HTML page
 *
 * Theory of operation
 * The suites leave JSON in bench/out. From it come
 *
 *   bench/out/report.html         one page with all tables and plots inside
 *   bench/README.md, plots/*.svg  the same for readers of the repository; only on "bench readme"
 *
 * Nothing on either page is typed by hand: the method is each suite's own opening comment, so it is always
 * that of the code that measured. Deno formats what is written, as "deno task ok" wants it.
 */

import { escapeText } from "../runtime/lab/svg.ts";
import { type Axes, barPlot, linePlot, type PlotText } from "./plot.ts";
import { formatValue, PROGRAMS, type RunDocument, type Series } from "./report.ts";
import type { Summary } from "./statistics.ts";

const SUITES = ["takeover", "papers", "alarms", "path", "core"] as const;
const SUITE_TITLES = {
  takeover: "Takeover and planned switch",
  papers: "The papers' experiments",
  alarms: "False alarms on a busy machine",
  path: "What it costs while nothing fails",
  core: "The packet core",
} as const;

/** What a section of a suite is called. */
const SECTION_TITLES: Record<string, string> = {
  download: "Gap of a download whose primary host is killed",
  upload: "Gap of an upload whose primary host is killed",
  switch: "Gap of a download at a planned switch",
  many: "Many live connections, one kill",
  "10ms": "False alarms in slices of a minute, heartbeat 10 ms, 3 may be missed",
  "3ms": "The same, heartbeat 3 ms",
  heartbeat: "Gap of a download by heartbeat, three may be missed",
  exchanges: "Time of exchanges while nothing fails",
  failures: "Single failures, each under three clients",
  logged: "Recovery by octets that the client had sent",
  connected: "Recovery by number of connections",
  clients: "Throughput of nginx by number of clients, 64 KiB each",
  disk: "A log on disk, and the disk itself",
  degraded: "A paced stream whose server degrades",
  moves: "Planned switches",
  daemons: "Servers out of the box, killed in the midst of a transfer",
  bulk: "Throughput of one connection",
  cpu: "CPU for a GB",
  pingpong: "Round trip of 64 octets",
  connects: "Connections one after the other",
  requests: "Requests to nginx, 50 connections",
  crowd: "Many connections at a time",
  checksum: "RFC 1071 sum",
  digest: "Digest of an output stream",
  translate: "One segment through the core",
  lookup: "Look-up of a connection",
  log: "Input log, reassembly and feeder of a standby",
  messages: "What replicas tell each other",
  memory: "Memory",
  ratio: "Twins beside the core: how much longer they take",
};

interface Plot {
  /** Name of its file, without the ending. */
  name: string;
  svg: string;
}

interface Chapter {
  run: RunDocument;
  title: string;
  method: string;
  plots: Plot[];
}

/**
 * Writes the HTML page, and the README with its pictures when asked.
 *
 * @returns Paths of what was written.
 * @throws {Error} When no suite has run yet.
 */
export async function writePages(options: { readme: boolean }): Promise<string[]> {
  const chapters: Chapter[] = [];
  for (const suite of SUITES) {
    const run = await readRun(suite);
    if (run === null) continue;
    chapters.push({
      run,
      title: SUITE_TITLES[suite],
      method: await readMethod(suite),
      plots: plotsOf(run),
    });
  }
  if (chapters.length === 0) throw new Error("Cannot write a report: no suite has run yet");
  const page = place("./out/report.html");
  await Deno.writeTextFile(page, htmlPage(chapters));
  if (!options.readme) return [page];
  const written: string[] = [];
  await Deno.mkdir(place("./plots"), { recursive: true });
  for await (const { name } of Deno.readDir(place("./plots"))) {
    if (name.endsWith(".svg")) await Deno.remove(place(`./plots/${name}`));
  }
  for (const { name, svg } of chapters.flatMap(({ plots }) => plots)) {
    const path = place(`./plots/${name}.svg`);
    await Deno.writeTextFile(path, svg);
    written.push(path);
  }
  const readme = place("./README.md");
  await Deno.writeTextFile(readme, markdownPage(chapters));
  written.push(readme);
  const args = ["fmt", "--quiet", ...written];
  const { success, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  if (!success) throw new Error(`Cannot format them: ${new TextDecoder().decode(stderr)}`);
  return [page, ...written];
}

function place(relative: string): string {
  return decodeURIComponent(new URL(relative, import.meta.url).pathname);
}

async function readRun(suite: string): Promise<RunDocument | null> {
  try {
    return JSON.parse(await Deno.readTextFile(place(`./out/${suite}.json`)));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Plots of a run, for the test of all that a run can hold. */
export function plotsOf(run: RunDocument): Plot[] {
  if (run.suite === "takeover") return takeoverPlots(run);
  if (run.suite === "papers") return paperPlots(run);
  if (run.suite === "alarms") return [];
  return run.suite === "path" ? pathPlots(run) : corePlots(run);
}

/** The opening comment of a suite, without its frame and first line. */
async function readMethod(suite: string): Promise<string> {
  const source = await Deno.readTextFile(place(`./${suite}.ts`));
  const comment = source.slice(source.indexOf("/**") + 3, source.indexOf("*/"));
  const lines = comment.split("\n").map((line) => line.replace(/^ \* ?/, "").trimEnd());
  return lines.slice(lines.indexOf("Theory of operation") + 1).join("\n").trim();
}

function originOf({ machine, sections }: RunDocument): string[] {
  const { at, cores, cpu, kernel, deno, holdfast } = machine;
  const peers = PROGRAMS.flatMap(([program]) => {
    const version = /\d+\.\d[\w.+-]*/.exec(String(machine[program] ?? ""))?.[0];
    return version === undefined ? [] : [`${program} ${version}`];
  });
  const counts = Object.values(sections).flatMap((of) => Object.values(of).map((one) => one.count));
  return [
    `${cores} x ${cpu}, Linux ${kernel}, Deno ${deno}, Holdfast ${holdfast}, ${at}`,
    ...(peers.length === 0 ? [] : [peers.join(", ")]),
    `Bars and points: medians; whiskers: least to greatest; up to ${
      Math.max(0, ...counts)
    } values each`,
  ];
}

function takeoverPlots(run: RunDocument): Plot[] {
  const origin = originOf(run);
  const plots: Plot[] = [];
  const kinds = ["download", "upload", "switch"].filter((kind) => run.sections[kind]?.gap);
  if (kinds.length > 0) {
    const text = {
      title: "How long the client saw nothing",
      summary: "share of all faults (%) whose gap was not longer than so many milliseconds",
      origin,
    };
    const curves = kinds.map((kind) => {
      const values = run.sections[kind].gap.values.toSorted((a, b) => a - b);
      const points = values.map((x, index) => ({ x, y: 100 * (index + 1) / values.length }));
      return { name: `${kind} (${values.length})`, points: [{ x: values[0], y: 0 }, ...points] };
    });
    const axes = { xName: "gap, milliseconds", logX: true, steps: true };
    plots.push({ name: "takeover-gaps", svg: linePlot(text, curves, axes) });
    const parts = ["gap", "detection", "takeover", "residue"];
    const bars = kinds.flatMap((kind, mark) =>
      parts.map((part) => barOf(`${kind}: ${part}`, run.sections[kind][part], mark))
    );
    plots.push({
      name: "takeover-parts",
      svg: barPlot({ title: "What gaps are made of", summary: "milliseconds", origin }, bars),
    });
  }
  const crowds = Object.entries(run.sections.many ?? {}).flatMap(([name, series]) => {
    const found = /^([\d,]+): (adopt to speak)$/.exec(name);
    return found === null ? [] : [{ x: Number(found[1].replaceAll(",", "")), series }];
  });
  if (crowds.length > 1) {
    const points = crowds.map(({ x, series }) => pointOf(x, series));
    const [first, last] = [crowds[0].x, crowds[crowds.length - 1].x];
    const slope = points[points.length - 1].y / last;
    const linear = [first, last].map((x) => ({ x, y: slope * x }));
    const text = {
      title: "Takeover by number of live connections",
      summary: "milliseconds from the suspicion until all have spoken",
      origin,
    };
    plots.push({
      name: "takeover-crowds",
      svg: linePlot(text, [
        { name: "adopt to speak", points },
        { name: "linear", points: linear },
      ], { xName: "connections", logX: true, logY: true }),
    });
  }
  return plots;
}

function paperPlots(run: RunDocument): Plot[] {
  const origin = originOf(run);
  const plots: Plot[] = [];
  const both = { logX: true, logY: true };
  const gaps = curvesOf(run, "heartbeat", ["gap", "detection", "takeover", "residue"]);
  if (gaps.length > 0) {
    const text = {
      title: "Gap of a download by heartbeat (ST-TCP's experiment)",
      summary: "milliseconds in which the client saw nothing, and what they are made of",
      origin,
    };
    const svg = linePlot(text, gaps, { xName: "heartbeat, milliseconds", ...both });
    plots.push({ name: "papers-heartbeat", svg });
  }
  const exchanges = Object.entries(run.sections.exchanges ?? {});
  if (exchanges.length > 0) {
    const text = {
      title: "Exchanges while nothing fails (ST-TCP's experiment)",
      summary: "milliseconds; Echo, Interactive: 100 exchanges; Bulk: one",
      origin,
    };
    const kinds = [...new Set(exchanges.map(([name]) => name.split(": ")[0]))];
    const small = exchanges.filter(([name]) => !name.startsWith("Bulk 100"));
    const bars = small
      .toSorted(([a], [b]) => kindOf(kinds, a) - kindOf(kinds, b))
      .map(([name, series]) => barOf(name, series, kindOf(kinds, name)));
    plots.push({ name: "papers-exchanges", svg: barPlot(text, bars) });
  }
  const lines: [section: string, curves: string[], text: Omit<PlotText, "origin">, axes: Axes][] = [
    ["logged", ["log", "log: start", "disk", "hot"], {
      title: "Recovery by octets that the client had sent (FT-TCP's experiment)",
      summary: "milliseconds from the server's death until its answer",
    }, { xName: "octets", ...both }],
    ["connected", ["log", "log: start", "hot"], {
      title: "Recovery by number of connections",
      summary: "milliseconds from the server's death until all are answered",
    }, { xName: "connections", ...both }],
    ["clients", ["plain", "haproxy", "hot", "log"], {
      title: "Throughput by number of clients (FT-TCP's experiment)",
      summary: "MB/s of nginx's answers, 64 KiB each",
    }, { xName: "clients", logX: true }],
    ["moves", ["nobody spoke"], {
      title: "Planned switch by number of connections (M-TCP's experiment)",
      summary: "milliseconds in which nobody spoke for the service",
    }, { xName: "connections", ...both }],
  ];
  for (const [section, names, text, axes] of lines) {
    const curves = curvesOf(run, section, names);
    if (curves.length === 0) continue;
    plots.push({ name: `papers-${section}`, svg: linePlot({ ...text, origin }, curves, axes) });
  }
  const bars: [section: string, pattern: RegExp, text: Omit<PlotText, "origin">][] = [
    ["failures", /gap of the (download|upload)$/, {
      title: "Single failures (ST-TCP's experiment)",
      summary: "milliseconds in which a client that survived saw nothing move",
    }],
    ["disk", /(rate|upload.*)$/, {
      title: "A log on disk, and the disk itself",
      summary: "MB/s",
    }],
    ["degraded", /rate$/, {
      title: "A stream whose server degrades after a second (M-TCP's experiment)",
      summary: "rate from then on, percent of the rate before, by the policy's threshold",
    }],
  ];
  for (const [section, pattern, text] of bars) {
    const found = Object.entries(run.sections[section] ?? {})
      .filter(([name]) => pattern.test(name))
      .map(([name, series]) => barOf(name, series, name.includes("upload") ? 1 : 0));
    if (found.length === 0) continue;
    plots.push({ name: `papers-${section}`, svg: barPlot({ ...text, origin }, found) });
  }
  return plots;
}

/** Series named "NUMBER UNIT: CURVE" as curves over the number; a single point is none. */
function curvesOf(run: RunDocument, section: string, names: readonly string[]) {
  return names.map((name) => ({
    name,
    points: Object.entries(run.sections[section] ?? {}).flatMap(([series, figures]) => {
      const [number, ...rest] = series.split(": ");
      if (rest.join(": ") !== name) return [];
      return [pointOf(parseInt(number.replaceAll(",", "")), figures)];
    }).toSorted((a, b) => a.x - b.x),
  })).filter(({ points }) => points.length > 1);
}

function kindOf(kinds: readonly string[], name: string): number {
  return kinds.indexOf(name.split(": ")[0]);
}

function pathPlots(run: RunDocument): Plot[] {
  const origin = originOf(run);
  const titles: Record<string, [title: string, summary: string]> = {
    bulk: ["Throughput of one connection", "MB/s"],
    cpu: ["CPU of a download: of the machine, and of each program in the path", "seconds for a GB"],
    pingpong: ["Round trip of 64 octets", "microseconds"],
    connects: ["Connections one after the other", "1/s"],
    requests: ["Requests to nginx, 50 connections", "1/s"],
  };
  const plots = Object.entries(titles).flatMap(([section, [title, summary]]) => {
    const series = Object.entries(run.sections[section] ?? {})
      .filter(([name]) => section !== "cpu" || name.startsWith("download"));
    if (series.length === 0) return [];
    const kinds = [...new Set(series.map(([name]) => name.split(" ")[0]))];
    const sorted = series.toSorted(([a], [b]) => placeOf(kinds, a) - placeOf(kinds, b));
    const bars = sorted.map(([name, values]) => barOf(name, values, placeOf(kinds, name)));
    return [{ name: `path-${section}`, svg: barPlot({ title, summary, origin }, bars) }];
  });
  const names = ["plain", "hot"].flatMap((path) =>
    ["CPU for a connection", "CPU for a KiB"].map((what) => `${path}: ${what}`)
  );
  const curves = curvesOf(run, "crowd", names);
  if (curves.length === 0) return plots;
  const text = {
    title: "Cost of a connection and of a KiB, by connections that live at a time",
    summary: "microseconds of the whole machine's CPU; a level curve is linear growth",
    origin,
  };
  const axes = { xName: "connections", logX: true, logY: true };
  return [...plots, { name: "path-crowd", svg: linePlot(text, curves, axes) }];
}

function placeOf(kinds: readonly string[], name: string): number {
  return kinds.indexOf(name.split(" ")[0]);
}

function corePlots(run: RunDocument): Plot[] {
  const origin = originOf(run);
  const plots: Plot[] = [];
  const curves = (section: string, unit: RegExp, ways: readonly string[]) =>
    ways.map((way) => ({
      name: way,
      points: Object.entries(run.sections[section] ?? {}).flatMap(([name, series]) => {
        const [thing, by, kind = ""] = name.split(" | ");
        if (by !== way || !unit.test(kind)) return [];
        return [pointOf(Number(/^[\d,]+/.exec(thing)?.[0].replaceAll(",", "")), series)];
      }),
    })).filter(({ points }) => points.length > 0);
  const add = (name: string, text: Omit<PlotText, "origin">, of: ReturnType<typeof curves>) => {
    if (of.length === 0) return;
    const xName = name === "core-checksum" ? "octets" : "connections";
    const axes = { xName, logX: true, logY: name === "core-checksum" };
    plots.push({ name, svg: linePlot({ ...text, origin }, of, axes) });
  };
  add(
    "core-checksum",
    { title: "RFC 1071 sum", summary: "GB/s by length" },
    curves("checksum", /^rate$/, ["wasm", "c", "ts"]),
  );
  add(
    "core-lookup",
    { title: "Look-up of a connection", summary: "nanoseconds by size of the table" },
    curves("lookup", /^$/, ["wasm", "c", "ts (Map)"]),
  );
  const bars = Object.entries(run.sections.translate ?? {}).flatMap(([name, series]) => {
    const [thing, way] = name.split(" | ");
    const mark = ["wasm", "c"].indexOf(way);
    return mark < 0 ? [] : [barOf(`${thing}: ${way}`, series, mark)];
  });
  if (bars.length > 0) {
    const text = { title: "One segment through the core, and through C", summary: "nanoseconds" };
    plots.push({ name: "core-translate", svg: barPlot({ ...text, origin }, bars) });
  }
  return plots;
}

function pointOf(x: number, { median, min, max }: Summary) {
  return { x, y: median, spread: [min, max] as [number, number] };
}

function barOf(name: string, { median, min, max }: Summary, mark: number) {
  return { name, value: median, spread: [min, max] as [number, number], mark };
}

/** Rows of a section's table. */
function rowsOf(section: Record<string, Series & Summary>): string[][] {
  return Object.entries(section).map(([name, { unit, median, min, max, p99, count }]) => [
    name.replaceAll(" | ", ", "),
    unit,
    ...[median, min, max, p99].map(formatValue),
    `${count}`,
  ]);
}

const HEAD = ["", "unit", "median", "least", "greatest", "p99", "n"];
const TARGET_HEAD = ["", "wanted", "measured", "verdict"];

function targetRows({ targets }: RunDocument): string[][] {
  return targets.map(({ name, unit, value, wanted, bound, isMet }) => [
    name.replaceAll(" | ", ", "),
    `${wanted} ${formatValue(bound)} ${unit}`,
    `${formatValue(value)} ${unit}`,
    isMet ? "met" : "missed",
  ]);
}

/** What is known of where the time goes, for what was missed. */
function reasonsOf({ targets }: RunDocument): string[] {
  return targets.flatMap(({ name, where, isMet }) => {
    return isMet || where === undefined ? [] : [`${name.replaceAll(" | ", ", ")}: ${where}.`];
  });
}

/** Lists below a suite's tables, by what they hold. */
function listsOf(run: RunDocument): [what: string, items: readonly string[]][] {
  const lists: [string, readonly string[]][] = [
    ["Remarks", run.remarks ?? []],
    ["Skipped", run.skipped],
    ["Failed", run.failures],
  ];
  return lists.filter(([, items]) => items.length > 0);
}

/** Where and when, one fact each. */
function machineOf({ machine }: RunDocument): string[] {
  return Object.entries(machine).filter(([, value]) => value !== null).map(([name, value]) => {
    const text = Array.isArray(value) ? value.map((load) => Number(load).toFixed(1)) : [value];
    return `${name}: ${text.join(" ")}`;
  });
}

function markdownPage(chapters: readonly Chapter[]): string {
  const lines = [
    "# Benchmarks",
    "",
    "Written by `deno task bench readme` from what the last runs on one machine left behind; edit the",
    "suites, not this page. `deno task bench` measures yours (root; `--quick`: under three minutes) and",
    "writes `bench/out/report.html`; `deno task bench SUITE --help` says what a suite takes, and",
    "`--against` compares with the JSON of an earlier run. Peers that are not installed are skipped by",
    "name. On Debian all come with",
    "",
    "```sh",
    "apt-get install --no-install-recommends haproxy socat qemu-system-x86 wrk redis-server \\",
    "  redis-tools lighttpd busybox vsftpd openssh-server",
    "```",
    "",
    ...markdownTable(
      ["suite", "shows", "seconds of its last run"],
      chapters.map(({ run, title }) => [
        `\`bench ${run.suite}\``,
        title,
        `${run.machine.seconds ?? "not noted"}`,
      ]),
    ),
    "",
  ];
  for (const { run, title, method, plots } of chapters) {
    lines.push(`## ${title}`, "");
    for (const { name } of plots) lines.push(`![${name}](plots/${name}.svg)`, "");
    const targets = targetRows(run);
    if (targets.length > 0) lines.push(...markdownTable(TARGET_HEAD, targets), "");
    const reasons = reasonsOf(run);
    if (reasons.length > 0) {
      lines.push("Where the time goes:", "", ...reasons.map((reason) => `- ${reason}`), "");
    }
    for (const [section, series] of Object.entries(run.sections)) {
      const heading = SECTION_TITLES[section] ?? section;
      lines.push(`### ${heading}`, "", ...markdownTable(HEAD, rowsOf(series)), "");
    }
    for (const [what, list] of listsOf(run)) {
      lines.push(`${what}:`, "", ...list.map((item) => `- ${firstLine(item)}`), "");
    }
    lines.push(`### Method of \`${run.suite}\``, "", "```text", method, "```", "");
    lines.push("Measured:", "", ...machineOf(run).map((fact) => `- ${fact}`), "");
  }
  return lines.join("\n");
}

function firstLine(text: string): string {
  return text.split("\n")[0];
}

function markdownTable(head: readonly string[], rows: readonly string[][]): string[] {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  const isText = (column: number) => column === 0 || column === 1 && head !== TARGET_HEAD;
  return [
    line(head),
    line(head.map((_, column) => isText(column) ? "---" : "--:")),
    ...rows.map(line),
  ];
}

function htmlPage(chapters: readonly Chapter[]): string {
  const parts: string[] = [];
  for (const { run, title, method, plots } of chapters) {
    parts.push(`<h2>${escapeText(title)}</h2>`);
    for (const { svg } of plots) {
      // As a picture of its own, so that the rules of one do not reach into another.
      const data = encodeURIComponent(svg);
      parts.push(`<img alt="" src="data:image/svg+xml,${data}">`);
    }
    const targets = targetRows(run);
    if (targets.length > 0) parts.push(htmlTable(TARGET_HEAD, targets));
    const reasons = reasonsOf(run);
    if (reasons.length > 0) parts.push("<p>Where the time goes:</p>", htmlList(reasons));
    for (const [section, series] of Object.entries(run.sections)) {
      parts.push(`<h3>${escapeText(SECTION_TITLES[section] ?? section)}</h3>`);
      parts.push(htmlTable(HEAD, rowsOf(series)));
    }
    for (const [what, list] of listsOf(run)) parts.push(`<p>${what}:</p>`, htmlList(list));
    parts.push(`<h3>Method</h3><pre>${escapeText(method)}</pre>`, htmlList(machineOf(run)));
  }
  return `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Holdfast benchmarks</title>
<meta name="viewport" content="width=device-width"><style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; } img { max-width: 100%; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
td, th { padding: .15rem .7rem; border-bottom: 1px solid #8884; text-align: right; }
td:first-child { text-align: left; } pre { overflow-x: auto; }
</style></head><body><h1>Holdfast benchmarks</h1>
${parts.join("\n")}
</body></html>
`;
}

function htmlTable(head: readonly string[], rows: readonly string[][]): string {
  const row = (cells: readonly string[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeText(cell)}</${tag}>`).join("")}</tr>`;
  return `<table>${row(head, "th")}${rows.map((cells) => row(cells, "td")).join("")}</table>`;
}

function htmlList(items: readonly string[]): string {
  return `<ul>${items.map((item) => `<li>${escapeText(firstLine(item))}</li>`).join("")}</ul>`;
}
