/**
 * splice.ts - put the test hop between a topology's client and its switch
 *
 *   before   client eth0 ════ p-c0 |switch|
 *   after    client eth0 ════ left |hop| right ════ p-c0 |switch|
 *
 * Theory of operation
 * The client's interface stays what it is; its other end moves from the switch into the hop's
 * namespace, and a new pair takes its place at the switch. The offloads of both neighbours of the
 * hop are switched off, so that what reaches it are the segments that a wire would carry, with
 * complete checksums. The hop's namespace bears the topology's id, so that what a killed run leaves
 * is found by Topology.sweep().
 *
 * Sources: ip-link(8), ethtool(8).
 */

import type { Topology } from "../../runtime/lab/topology.ts";
import type { HopStatistics } from "./hop.ts";
import { runProcess, startProcess, type TestProcess } from "./process.ts";

/** Interface of the switch that leads to the first client. */
const PORT = "p-c0";

/** How bad the link is; see hop.ts. Ratios are probabilities from 0 to 1. */
export interface HopOptions {
  /** Start of the random sequence; default 0. */
  seed?: number;
  /** Probability that a TCP frame is lost. */
  lossRatio?: number;
  /** Probability that a TCP frame is delivered twice. */
  duplicateRatio?: number;
  /** Probability that a TCP frame is overtaken. */
  reorderRatio?: number;
  /** Delay of every frame in one direction, milliseconds. */
  delayMs?: number;
  /** Further random delay up to this, milliseconds. */
  jitterMs?: number;
}

/** A hop that forwards. */
export interface SplicedHop {
  /** Ends the hop, and with it the client's link; says what it did. */
  stop(): Promise<HopStatistics>;
  /** Removes the hop's namespace, and the hop if it still runs. */
  remove(): Promise<void>;
}

/**
 * Puts a hop between the client and the switch.
 *
 * @param topology The topology.
 * @param options How bad the link is.
 * @returns The running hop; its maker removes it.
 * @throws {Error} If a command fails or the hop does not start within 15 s.
 */
export async function spliceHop(topology: Topology, options: HopOptions): Promise<SplicedHop> {
  const netns = `${topology.id}-hop`;
  const mtu = await mtuOf(topology.client.netns);
  await runProcess("ip", ["netns", "add", netns]);
  let process: TestProcess | undefined;
  const remove = async () => {
    await process?.kill();
    await runProcess("ip", ["netns", "delete", netns]);
  };
  try {
    await ip(topology.switch.netns, `link set dev ${PORT} down`);
    await ip(topology.switch.netns, `link set dev ${PORT} nomaster name left netns ${netns}`);
    await ip(netns, `link add right mtu ${mtu} type veth peer name ${PORT} mtu ${mtu}`);
    await ip(netns, `link set dev ${PORT} netns ${topology.switch.netns}`);
    await ip(netns, "link set dev left addrgenmode none up");
    await ip(netns, "link set dev right addrgenmode none up");
    await ip(topology.switch.netns, `link set dev ${PORT} master br0 addrgenmode none up`);
    await withoutOffloads(topology.client.netns, "eth0");
    await withoutOffloads(topology.switch.netns, PORT);
    process = startProcess(Deno.execPath(), hopArguments(options), {
      namespace: netns,
      input: true,
    });
    await process.waitForOutput("hop ready", 15_000);
  } catch (error) {
    await remove();
    throw error;
  }
  const running = process;
  const stop = async () => {
    await running.closeInput();
    await running.mustSucceed(5000);
    return JSON.parse(running.output().trim().split("\n").at(-1)!);
  };
  return { stop, remove };
}

function hopArguments(options: HopOptions): string[] {
  const flags: Record<string, number | undefined> = {
    seed: options.seed,
    loss: options.lossRatio,
    dup: options.duplicateRatio,
    reorder: options.reorderRatio,
    "delay-ms": options.delayMs,
    "jitter-ms": options.jitterMs,
  };
  const set = Object.entries(flags).flatMap(([name, value]) => {
    return value === undefined ? [] : [`--${name}`, String(value)];
  });
  const script = new URL("./hop.ts", import.meta.url).pathname;
  return ["run", "-A", script, "--left", "left", "--right", "right", ...set];
}

async function ip(netns: string, command: string): Promise<void> {
  await runProcess("ip", ["-n", netns, ...command.split(" ")]);
}

async function withoutOffloads(netns: string, interfaceName: string): Promise<void> {
  const features = ["tso", "gso", "gro", "tx"].flatMap((name) => [name, "off"]);
  await runProcess("ethtool", ["-K", interfaceName, ...features], { namespace: netns });
}

async function mtuOf(netns: string): Promise<number> {
  const text = await runProcess("ip", ["-n", netns, "-json", "link", "show", "dev", "eth0"]);
  return JSON.parse(text)[0].mtu;
}
