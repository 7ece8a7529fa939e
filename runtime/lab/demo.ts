/**
 * demo.ts - `holdfast demo`: a transfer that outlives its server, shown as the client sees it
 *
 * Theory of operation
 *
 *   topology -> daemons and servers -> client -> fault at a random moment -> result -> all removed
 *
 * The moment is a random share of the transfer, so that it is in its middle on a fast machine and on a
 * slow one. The client is a process of its own and knows nothing of what is done to the hosts; what it
 * tells while it runs is drawn, what it tells at its end is the result. The survivor is asked for its
 * timeline, whose times are of the same clock as the client's, as all this is one machine.
 *
 * Exit status 1 when anything was lost: octets, order, the connection, or the takeover itself.
 */

import { parseSize } from "../config.ts";
import { formatOctets, type TakeoverStatus } from "../status.ts";
import { chartLines, formatRate, LiveArea, terminalWidth, writeOut } from "./chart.ts";
import type { ClientKind, ClientProgress, ClientResult } from "./client.ts";
import { Cluster, FIRST_PORT, labCommand } from "./cluster.ts";
import { whyNoNamespaces } from "./namespaces.ts";
import { picture, type PictureEvent } from "./picture.ts";
import { BIN_MS, type Gap } from "./recorder.ts";
import { PORT_OFFSETS } from "./servers.ts";
import { Topology } from "./topology.ts";

/** What can be shown. */
export interface DemoOptions {
  /** What the client does. */
  service: ClientKind;
  /** What happens to the primary host. */
  fault: "crash" | "switch" | "none";
  /** How much is transferred: "2GiB". */
  size: string;
  /** IPv6 in place of IPv4. */
  ipv6: boolean;
  /** Leave the hosts up afterwards. */
  keep: boolean;
  /** File for the picture; ./holdfast-demo.svg when not given. */
  svg?: string;
}

/** What was done to the primary. */
interface Fault {
  /** When, milliseconds of the wall clock. */
  atMs: number;
  /** The host that was primary. */
  primary: string;
  /** The host that was to take over. */
  standby: string;
  /** Whether the client's connection was protected just before. */
  isProtected: boolean;
  /** In words. */
  text: string;
}

const PICTURE_DEFAULT = "holdfast-demo.svg";
const CHART_HEIGHT = 8;
const CHART_WIDTH_MAX = 120;
/** Between two lines when there is no terminal to draw on, milliseconds. */
const LINE_MS = 500;
/** Share of the transfer before which, and after which, no fault is made. */
const SHARE_MIN = 0.15;
const SHARE_MAX = 0.85;
const VERBS: Record<ClientKind, string> = { file: "download", upload: "upload", echo: "echo" };

/**
 * Shows it.
 *
 * @returns Exit status: 0 when nothing was lost, 1 when something was, 2 when it cannot run here.
 */
export async function demo(options: DemoOptions): Promise<number> {
  const why = whyNoNamespaces();
  const octets = parseSize(options.size);
  if (why !== null || octets === null || octets === 0) {
    const reason = why ?? `the size is "${options.size}", allowed is a size like "64MiB" or "2GiB"`;
    console.error(`Cannot run the demo: ${reason}`);
    return 2;
  }
  const topology = await Topology.create({ ipv6: options.ipv6, links: 2, witness: true });
  try {
    const isGood = await show(topology, options, octets);
    if (options.keep) {
      await topology.keep();
      console.log(keepText(topology));
    }
    return isGood ? 0 : 1;
  } catch (error) {
    console.error(`The demo failed: ${(error as Error).message}`);
    return 1;
  } finally {
    if (!options.keep) await topology.destroy();
  }
}

async function show(topology: Topology, options: DemoOptions, octets: number): Promise<boolean> {
  const { service, fault, ipv6 } = options;
  const cluster = new Cluster(topology);
  writeOut(`client ── switch ── hosts a and b, ${topology.serviceAddress} served by both ... `);
  await cluster.startAll();
  const [first, second] = cluster.hosts;
  writeOut(`${first} is primary, ${second} is ready to take over\n`);
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  const share = SHARE_MIN + Math.random() * (SHARE_MAX - SHARE_MIN);
  writeOut(
    `${VERBS[service]} of ${formatOctets(octets)} over IPv${ipv6 ? 6 : 4}` +
      (fault === "none" ? "\n\n" : `, ${fault} of the primary after ${percent(share)}\n\n`),
  );
  let done: Promise<Fault | Error> | null = null;
  const view = new View(octets);
  const result = await runClient(topology, { service, octets, seed }, (progress) => {
    view.add(progress);
    if (fault === "none" || done !== null || progress.octets < octets * share) return;
    done = makeFault(cluster, topology, fault).then((made) => {
      view.mark(made);
      return made;
    }).catch((error: Error) => error);
  });
  const outcome = await (done as Promise<Fault | Error> | null);
  const made = outcome instanceof Error ? null : outcome;
  const takeover = made === null ? null : await takeoverAfter(cluster, made);
  const steps = made === null || takeover === null ? [] : stepsOf(takeover, made.primary);
  view.finish(result, made);
  console.log(report(result, { made, steps, takeover }).join("\n"));
  const path = options.svg ?? PICTURE_DEFAULT;
  await Deno.writeTextFile(path, drawPicture(result, { options, made, steps }));
  console.log(`\npicture     ${path}`);
  const problem = problemOf(result, { fault, outcome, takeover });
  if (problem === null) {
    console.log("\nNothing was lost.");
    return true;
  }
  console.log(`\nFAILED: ${problem}`);
  for (const host of cluster.hosts) {
    console.log(`\nend of the log of host ${host}:\n${cluster.daemon(host).log.slice(-3000)}`);
  }
  return false;
}

/** What went wrong; null when nothing did. */
function problemOf(
  result: ClientResult,
  { fault, outcome, takeover }: {
    fault: DemoOptions["fault"];
    outcome: Fault | Error | null;
    takeover: TakeoverStatus | null;
  },
): string | null {
  if (result.error !== null) {
    const isUnprotected = outcome !== null && !(outcome instanceof Error) && !outcome.isProtected;
    const why = isUnprotected ? " (no standby followed it when the fault was made)" : "";
    return `the client's connection: ${result.error}${why}`;
  }
  if (result.octets !== result.octetsExpected) {
    return `the client got ${result.octets} octets in place of ${result.octetsExpected}`;
  }
  if (result.sha256 !== result.sha256Expected) return "the octets are not those that were sent";
  if (fault === "none") return null;
  if (outcome instanceof Error) return `the fault could not be made: ${outcome.message}`;
  if (outcome === null) {
    return "the transfer was over before the fault could be made: use a larger --size";
  }
  return takeover === null ? "the standby has not taken over" : null;
}

async function makeFault(
  cluster: Cluster,
  topology: Topology,
  fault: "crash" | "switch",
): Promise<Fault> {
  const primary = await cluster.primary();
  if (primary === null) throw new Error("no host is primary");
  const standby = cluster.hosts.find((host) => host !== primary)!;
  const isProtected = (await cluster.service(primary)).connections.hot > 0;
  if (fault === "crash") {
    const { atMs } = await topology.crashHost(primary);
    const text = `host ${primary} crashed: links down, every process killed`;
    return { atMs, primary, standby, isProtected, text };
  }
  const atMs = performance.timeOrigin + performance.now();
  const { gapMs } = await cluster.daemon(primary).control.switchService("web");
  const text = `switch from ${primary} to ${standby} asked for, ` +
    `during which nobody spoke for ${gapMs.toFixed(1)} ms`;
  return { atMs, primary, standby, isProtected, text };
}

/** The standby's takeover that followed the fault; null when there was none. */
async function takeoverAfter(cluster: Cluster, made: Fault): Promise<TakeoverStatus | null> {
  const takeover: TakeoverStatus | null = (await cluster.service(made.standby)).lastTakeover;
  return takeover !== null && Date.parse(takeover.at) + 1 >= made.atMs ? takeover : null;
}

async function runClient(
  topology: Topology,
  { service, octets, seed }: { service: ClientKind; octets: number; seed: number },
  progressed: (progress: ClientProgress) => void,
): Promise<ClientResult> {
  const child = topology.client.spawn(
    labCommand("client", [
      service,
      `--address=${topology.serviceAddress}`,
      `--port=${FIRST_PORT + PORT_OFFSETS[service]}`,
      `--octets=${octets}`,
      `--seed=${seed}`,
    ]),
    { stdout: "piped" },
  );
  let result: ClientResult | null = null;
  let rest = "";
  for await (const piece of child.stdout.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const message = JSON.parse(line) as ClientProgress | ClientResult;
      if (message.event === "progress") progressed(message);
      else result = message;
    }
  }
  const { code } = await child.status;
  if (result === null) throw new Error(`The client ended without a result, status ${code}`);
  return result;
}

/** What is seen while the transfer runs: a chart on a terminal, lines elsewhere. */
class View {
  readonly #octets: number;
  readonly #bins: number[] = [];
  readonly #area = Deno.stdout.isTerminal() ? new LiveArea() : null;
  readonly #startMs = performance.timeOrigin + performance.now();
  #received = 0;
  #markMs: number | null = null;
  #nextLineMs = LINE_MS;

  constructor(octets: number) {
    this.#octets = octets;
  }

  add(progress: ClientProgress): void {
    this.#bins.push(...progress.bins);
    this.#received = progress.octets;
    if (this.#area !== null) this.#draw("");
    const ms = this.#bins.length * BIN_MS;
    if (this.#area !== null || ms < this.#nextLineMs) return;
    this.#nextLineMs += LINE_MS;
    const recent = this.#bins.slice(-LINE_MS / BIN_MS).reduce((sum, bin) => sum + bin, 0);
    writeOut(
      `${(ms / 1000).toFixed(1).padStart(6)} s  ${this.#share().padStart(6)}  ` +
        `${formatRate(recent * 1000 / LINE_MS)}\n`,
    );
  }

  mark(fault: Fault): void {
    this.#markMs = fault.atMs - this.#startMs;
    if (this.#area === null) writeOut(`          ${fault.text}\n`);
  }

  /** Draws the whole again, from the client's own record. */
  finish(result: ClientResult, fault: Fault | null): void {
    this.#bins.splice(0, this.#bins.length, ...result.bins);
    this.#received = result.octets;
    this.#markMs = fault === null ? null : fault.atMs - result.startMs;
    if (this.#area === null) writeOut("\n" + this.#chart(false).join("\n") + "\n");
    else this.#draw("");
  }

  #draw(note: string): void {
    this.#area!.draw([
      ...this.#chart(true),
      `${this.#share()} of ${formatOctets(this.#octets)}${note}`,
    ]);
  }

  #chart(color: boolean): string[] {
    return chartLines({
      bins: this.#bins,
      binMs: BIN_MS,
      markMs: this.#markMs,
      width: Math.min(CHART_WIDTH_MAX, terminalWidth()),
      height: CHART_HEIGHT,
      color,
    });
  }

  #share(): string {
    return percent(this.#received / this.#octets);
  }
}

interface Step {
  atMs: number;
  text: string;
}

function stepsOf({ reason, timeline }: TakeoverStatus, primary: string): Step[] {
  const isSwitch = reason === "switch";
  const steps = [
    {
      atMs: isSwitch ? null : timeline.lastHeartbeatMs,
      text: `last heartbeat of ${primary} heard`,
    },
    {
      atMs: timeline.suspectMs,
      text: isSwitch ? `${primary} hands over` : `${primary} is suspected`,
    },
    { atMs: timeline.adoptedMs, text: "connections adopted" },
    { atMs: timeline.claimedMs, text: "address claimed" },
    { atMs: timeline.firstByteMs, text: "first octets sent to the client" },
  ];
  return steps.filter((step): step is Step => step.atMs !== null);
}

function report(
  result: ClientResult,
  { made, steps, takeover }: { made: Fault | null; steps: Step[]; takeover: TakeoverStatus | null },
): string[] {
  const { octets, startMs, endMs, gaps: [largest], sha256, sha256Expected } = result;
  const seconds = (endMs - startMs) / 1000;
  const isSame = sha256 === sha256Expected;
  const lines = [
    "",
    `transferred ${formatOctets(octets)} in ${seconds.toFixed(2)} s, ${
      formatRate(octets / seconds)
    }`,
    `largest gap ${gapText(largest, made)}`,
    `SHA-256     ${sha256 ?? "none"} ${isSame ? "as expected" : `in place of ${sha256Expected}`}`,
  ];
  if (made === null) return lines;
  const gap = gapAt(result, made, steps);
  if (gap !== largest) lines.splice(3, 0, `at the fault ${gapText(gap, made)}`);
  lines.push("", `       0.0 ms  ${made.text}`);
  for (const { atMs, text } of steps) {
    lines.push(`${signed(atMs - made.atMs).padStart(10)} ms  ${text}`);
  }
  lines.push(
    `${signed(gap.atMs + gap.ms - made.atMs).padStart(10)} ms  end of the client's gap`,
  );
  if (takeover !== null) {
    const { reason, detectMs, takeoverMs, connections } = takeover;
    lines.push(
      `takeover (${reason}) of ${connections} connection${connections === 1 ? "" : "s"}: ` +
        `detected in ${detectMs.toFixed(1)} ms, done in ${takeoverMs.toFixed(1)} ms`,
    );
  }
  return lines;
}

/** The longest gap that has to do with the fault: from it to the takeover's first octet. */
function gapAt(result: ClientResult, made: Fault, steps: readonly Step[]): Gap {
  const untilMs = Math.max(made.atMs, ...steps.map(({ atMs }) => atMs));
  const touches = ({ atMs, ms }: Gap) => atMs <= untilMs && atMs + ms >= made.atMs;
  return result.gaps.find(touches) ?? { ms: 0, atMs: made.atMs, offset: result.octets };
}

function gapText({ ms, atMs, offset }: Gap, made: Fault | null): string {
  const when = made === null ? "" : `from ${signed(atMs - made.atMs)} ms on, `;
  return `${ms.toFixed(1)} ms, ${when}after ${formatOctets(offset)}`;
}

function drawPicture(
  result: ClientResult,
  { options, made, steps }: { options: DemoOptions; made: Fault | null; steps: Step[] },
): string {
  const { startMs, endMs, octets, bins, binMs } = result;
  const gap = made === null ? result.gaps[0] : gapAt(result, made, steps);
  const from = ({ atMs, text }: Step): PictureEvent => ({ atMs: atMs - startMs, text });
  const seconds = (endMs - startMs) / 1000;
  const what = `One TCP connection, ${VERBS[options.service]} over IPv${options.ipv6 ? 6 : 4}`;
  const ends = {
    crash: "its server's host crashes",
    switch: "it is moved",
    none: "nothing happens",
  };
  return picture({
    title: `${what}: ${ends[options.fault]}`,
    summary: `${formatOctets(octets)} in ${seconds.toFixed(2)} s, ` +
      `gap ${gap.ms.toFixed(1)} ms, ` +
      (result.ok ? "SHA-256 as expected" : `FAILED: ${result.error ?? "the content differs"}`),
    bins,
    binMs,
    gap: { fromMs: gap.atMs - startMs, toMs: gap.atMs + gap.ms - startMs },
    fault: made === null ? null : from(made),
    events: steps.map(from),
  });
}

function keepText(topology: Topology): string {
  const machines = [topology.client, topology.switch, ...Object.values(topology.hosts)];
  return [
    "",
    "Left as it is. To enter a machine:",
    ...machines.map(({ name, netns }) => `  ${name.padEnd(8)} ip netns exec ${netns} bash`),
    "Its files (configurations, logs, control sockets):",
    `  ${topology.directory}`,
    "To remove it:",
    `  ${topology.removalCommand()}`,
  ].join("\n");
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}

function signed(ms: number): string {
  return `${ms < 0 ? "-" : "+"}${Math.abs(ms).toFixed(1)}`;
}
