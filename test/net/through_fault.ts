/**
 * through_fault.ts - the mixed client runs through a fault, and must notice nothing
 *
 *   workThrough()   on a site that is there, at a random moment
 *   throughFault()  on a site of its own, and it must hear one voice: the switch's capture must show frames
 *                   from the service address from one card, then from the other, and never from the first again
 */
import { Capture, traceTcp } from "./capture.ts";
import { type NetTestContext, sleep, until } from "./conditions.ts";
import {
  type HostName,
  mixedServer,
  type Site,
  type SiteOptions,
  withSite,
  type WorkloadOptions,
} from "./harness.ts";
import { assertOneVoice } from "./one_voice.ts";
import { assertUnbroken, type VerdictOptions } from "./verdict.ts";
import { MIX } from "./workload.ts";

/**
 * All of the usual mix but "server-fin", which asks for a hash on a second connection: a server that
 * has lost the first one, because its host followed anew or it was started anew, cannot know it.
 */
export const LASTING_MIX = MIX.filter((kind) => kind !== "server-fin");
/**
 * Memory of a service that keeps whole logs of some 50 of these: what they say in 5 s, up to 280 MB, and what is
 * parked for them. What does not fit costs its connection the protection (`full = "unprotect"`).
 */
export const MEMORY = "1GiB";
export const WORKLOAD = {
  mix: LASTING_MIX,
  connections: 12,
  durationMs: 5000,
  momentMs: 1500,
  silentMs: 4000,
  rate: 2_000_000,
};
/** How long the mixed client may take, milliseconds. */
export const TIMEOUT_MS = 60_000;

/** A running site, and who is what when the fault strikes. */
export interface Scene {
  /** Where. */
  site: Site;
  /** The primary. */
  primary: HostName;
  /** The standby. */
  standby: HostName;
}

/** What runs through a fault at a random moment. */
export interface Passage {
  /** The mixed client. */
  workload: Omit<WorkloadOptions, "momentMs" | "seed">;
  /** The fault strikes between so many milliseconds after the client has begun. */
  moment: readonly [least: number, most: number];
  /** How long the client may take, milliseconds; TIMEOUT_MS if not given. */
  timeoutMs?: number;
  /** What its capture may hold. */
  verdict?: Partial<VerdictOptions>;
}

/** The mixed client in a hurry. */
export const FAST = { durationMs: 5000, silentMs: 4000, rate: 4_000_000, mix: LASTING_MIX };

/** The mixed client slow enough to outlast two deaths, for `durationMs`. */
export function slowPassage(durationMs: number): Passage {
  return {
    workload: {
      connections: 100,
      durationMs,
      silentMs: durationMs - 2000,
      rate: 400_000,
      mix: LASTING_MIX,
    },
    moment: [500, 3000],
    timeoutMs: 90_000,
    verdict: { hasLongSilence: true },
  };
}

/**
 * Runs the mixed client through `fault`, which says when it struck, milliseconds since 1970, and asserts that
 * no connection noticed.
 */
export async function workThrough(
  { random }: NetTestContext,
  site: Site,
  { workload: kind, moment, timeoutMs = TIMEOUT_MS, verdict }: Passage,
  fault: () => Promise<number>,
): Promise<void> {
  const capture = await site.startCapture();
  const momentMs = Math.round(random.between(...moment));
  console.log(`fault after ${momentMs} ms`);
  const workload = await site.startWorkload({ ...kind, momentMs, seed: random.seed() });
  await workload.go();
  await sleep(momentMs);
  const faultMs = await fault();
  await workload.mustSucceed(timeoutMs);
  const dropped = await capture.stop();
  assertUnbroken(traceTcp(capture.path, site.address), { ...verdict, faultMs, dropped });
  await Deno.remove(capture.path);
}

/** Runs the mixed client through `fault`, and asserts that it noticed nothing and heard one voice. */
export async function throughFault(
  context: NetTestContext,
  options: Partial<SiteOptions> & { longSilence?: boolean },
  fault: (scene: Scene) => Promise<void>,
  after: (scene: Scene) => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  await withSite(context, { witness: true, run: mixedServer(), ...options }, async (site) => {
    await site.waitProtected();
    const capture = await site.startCapture();
    const wire = await Capture.start({
      namespace: site.topology.switch.netns,
      interfaceName: "br0",
      directory: context.directory,
      filter: "tcp or arp or icmp6",
    });
    const workload = await site.startWorkload({ ...WORKLOAD, seed: context.random.seed() });
    const primary = await site.primary();
    const scene = { site, primary, standby: site.other(primary) };
    await workload.go();
    await sleep(WORKLOAD.momentMs);
    const faultMs = Date.now();
    await fault(scene);
    await workload.mustSucceed(TIMEOUT_MS);
    await after(scene);
    const dropped = await capture.stop() + await wire.stop();
    const hasLongSilence = options.longSilence;
    assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped, hasLongSilence });
    assertOneVoice(wire.path, site.address);
  });
}

/** A host's role. */
export async function roleOf(site: Site, host: HostName): Promise<string> {
  return (await site.service(host)).role;
}

/** Waits until a host has a role. */
export async function waitRole(site: Site, host: HostName, role: string): Promise<void> {
  await until(async () => await roleOf(site, host) === role, {
    what: `${host} to be ${role}`,
    timeoutMs: 20_000,
  });
}

/** What a host has judged, oldest first. */
export async function judgements(site: Site, host: HostName): Promise<string[]> {
  return (await site.service(host)).judgements.map(({ judgement }) => judgement);
}
