/**
 * fault_step.ts - one fault on real kernels under a mixed client, its repair, and what must hold
 *
 * Theory of operation
 *
 *   protected ─ captures, client ─ preludes ─ fault ─ judged ─ repair ─ protected ─ client ends ─ verdict
 *
 * Oracles, each of which fails the step:
 *   protected    before the fault every connection is hot, and after the repair the service is protected
 *   judged       a daemon names in `status` what happened, since the fault, and who is primary is who must be
 *   the client   every octet of every connection right, each by its deadline (workload.ts)
 *   unbroken     no RST, no early FIN, no number that goes back, in the client's capture (verdict.ts)
 *   one voice    in the switch's capture nobody speaks out of turn (one_voice.ts)
 */

import assert from "node:assert/strict";
import type { Judgement } from "../../runtime/status.ts";
import { Capture, traceTcp } from "./capture.ts";
import { sleep, until } from "./conditions.ts";
import type { HostName, Site } from "./harness.ts";
import { assertOneVoice } from "./one_voice.ts";
import { type FaultKind, isBrief, outcomeOf, type Prelude, type Step } from "./schedule.ts";
import { LASTING_MIX } from "./through_fault.ts";
import { assertUnbroken } from "./verdict.ts";

/** Connections of the mixed client: two of each kind. */
const CONNECTIONS = 2 * LASTING_MIX.length;
/** Octets per second of its fastest paced transfer. */
const RATE = 1_500_000;
/** How long it goes on after the fault, milliseconds. */
const AFTER_FAULT_MS = 1200;
/** What a prelude takes beside its pause, about; milliseconds. */
const PRELUDE_MS = 400;
const CLIENT_TIMEOUT_MS = 60_000;
const TIMEOUT_MS = 20_000;
/** Until connections that have just been opened are protected. */
const HOT_TIMEOUT_MS = 5000;
/** A silence so long is long in the sense of verdict.ts. */
const LONG_SILENCE_MS = 700;
/** Faults that keep the struck host's daemon from answering. */
const DUMB: readonly FaultKind[] = ["daemon SIGKILL", "daemon SIGSTOP", "power cut"];
const SEGFAULT_TRIES_MAX = 200;
/** What a judge says of a server that died. */
const DEATH_VERDICTS = ["app-died", "app-refuses", "app-exited"];
/** What judges say of a victim's own server or card. */
const OWN_VERDICTS: Partial<Record<FaultKind, readonly string[]>> = {
  "server SIGKILL": DEATH_VERDICTS,
  "server SIGSEGV": DEATH_VERDICTS,
  "server SIGSTOP": ["app-hangs"],
  "client cut": ["card-down"],
};

/** What a step works with. */
export interface StepPlace {
  /** Daemons, servers and witness run, and the service is protected. */
  site: Site;
  /** Takes the captures. */
  directory: string;
}

/** Runs a step; the service is protected before and after. */
export async function runStep(place: StepPlace, step: Step): Promise<void> {
  await new StepRun(place, step).run();
}

class StepRun {
  readonly #site: Site;
  readonly #directory: string;
  readonly #step: Step;
  #primary: HostName = "a";
  /** Who was primary, in order. */
  readonly #owners: HostName[] = [];
  #faultMs = Infinity;

  constructor({ site, directory }: StepPlace, step: Step) {
    this.#site = site;
    this.#directory = directory;
    this.#step = step;
  }

  async run(): Promise<void> {
    const site = this.#site;
    const { preludes, afterMs, clientSeed } = this.#step;
    this.#primary = await site.primary();
    this.#owners.push(this.#primary);
    const momentMs = afterMs +
      preludes.reduce((sum, prelude) => sum + prelude.afterMs + PRELUDE_MS, 0);
    const [capture, wire, workload] = await Promise.all([
      this.#capture(site.topology.client.netns, "eth0"),
      this.#capture(site.topology.switch.netns, "br0"),
      site.startWorkload({
        seed: clientSeed,
        connections: CONNECTIONS,
        mix: LASTING_MIX,
        durationMs: momentMs + AFTER_FAULT_MS,
        momentMs,
        silentMs: momentMs + AFTER_FAULT_MS / 2,
        stallMs: AFTER_FAULT_MS,
        rate: RATE,
      }),
    ]);
    await workload.go();
    const startMs = Date.now();
    for (const prelude of preludes) await this.#precede(prelude);
    await sleep(afterMs);
    await this.#assertHot();
    await this.#breakAndRepair();
    await workload.mustSucceed(CLIENT_TIMEOUT_MS);
    const [lost, missed] = await Promise.all([capture.stop(), wire.stop()]);
    const trace = traceTcp(capture.path, site.address);
    // A taker-over acknowledges once more what ended lately: connections of the client before this one.
    trace.connections = trace.connections.filter(({ clientSyns }) => clientSyns > 0);
    assertUnbroken(trace, {
      connections: CONNECTIONS,
      // A switch may cost a SYN too.
      faultMs: preludes.length > 0 ? startMs : this.#faultMs,
      dropped: lost + missed,
      hasLongSilence: this.#isLongSilence(),
    });
    const macs = await Promise.all(this.#owners.map((host) => site.hostMac(host)));
    assertOneVoice(wire.path, site.address, macs);
  }

  async #capture(namespace: string, interfaceName: string): Promise<Capture> {
    const directory = this.#directory;
    return await Capture.start({
      ...{ namespace, interfaceName, directory },
      filter: "tcp or arp or icmp6",
    });
  }

  /** Whether nobody spoke for long: the witness was away, or a server stood still for `lag_time`. */
  #isLongSilence(): boolean {
    const { kind, witnessAwayMs } = this.#step;
    if (kind === "server SIGSTOP" && !isBrief(this.#step)) return true;
    return witnessAwayMs !== null && witnessAwayMs >= LONG_SILENCE_MS;
  }

  // Before the fault ------------------------------------------------------------------------------

  async #precede({ kind, afterMs }: Prelude): Promise<void> {
    const site = this.#site;
    await sleep(afterMs);
    switch (kind) {
      case "switch": {
        await site.requestSwitch(this.#primary);
        this.#setPrimary(site.other(this.#primary));
        await site.waitProtected();
        const { role, lastTakeover } = await site.service(this.#primary);
        assert.deepEqual([role, lastTakeover?.reason], ["primary", "switch"]);
        return;
      }
      case "witness restart":
        await site.killWitness();
        await site.startWitness();
        return;
      case "one link down":
        await site.topology.setLink("a", "repl1", false);
        await sleep(afterMs);
        await site.topology.setLink("a", "repl1", true);
    }
  }

  #setPrimary(host: HostName): void {
    if (host === this.#primary) return;
    this.#primary = host;
    this.#owners.push(host);
  }

  /** Every connection is protected, and nothing has been judged that did not happen. */
  async #assertHot(): Promise<void> {
    const site = this.#site;
    await until(async () => {
      const connections = await site.connections(this.#primary);
      const bare = connections.filter(({ protection, state }) =>
        protection !== "hot" && (state === "established" || state === "closing")
      );
      if (bare.length === 0) return true;
      throw new Error(
        `${bare.length} of ${connections.length} are not: ${JSON.stringify(bare[0])}`,
      );
    }, { what: "every connection to be protected", timeoutMs: HOT_TIMEOUT_MS });
    assert.equal(await site.primary(), this.#primary, "primary without a fault");
  }

  // The fault -------------------------------------------------------------------------------------

  async #breakAndRepair(): Promise<void> {
    const site = this.#site;
    const { victim, lastMs, witnessAwayMs } = this.#step;
    const host = victim === "primary" ? this.#primary : site.other(this.#primary);
    const epoch = (await site.service(this.#primary)).epoch;
    const pid = (await site.service(host)).app.pid;
    if (witnessAwayMs !== null) await site.killWitness();
    this.#faultMs = Date.now();
    await this.#strike(host);
    const expected = outcomeOf(this.#step);
    const isAwaited = !isBrief(this.#step) &&
      !(this.#step.kind === "daemon SIGSTOP" && witnessAwayMs !== null);
    const witness = this.#witnessBack();
    if (isAwaited) {
      const outcome = await this.#waitJudged(host);
      assert.ok(
        expected === "either" || expected === outcome,
        `the service ${outcome}, it had to be ${expected}`,
      );
      if (outcome === "moves") this.#setPrimary(site.other(this.#primary));
    }
    await sleep(Math.max(0, this.#faultMs + lastMs - Date.now()));
    await this.#repair(host, pid);
    await witness;
    await site.waitProtected();
    const primary = await site.primary();
    if (isAwaited) assert.equal(primary, this.#primary, "primary after the repair");
    this.#setPrimary(primary);
    const now = await site.service(primary);
    assert.ok(now.epoch >= epoch, `epoch ${now.epoch} after ${epoch}`);
    assert.equal(now.speaks, true);
    const follower = await site.service(site.other(primary));
    assert.deepEqual([follower.role, follower.speaks], ["standby", false]);
  }

  async #witnessBack(): Promise<void> {
    const { witnessAwayMs } = this.#step;
    if (witnessAwayMs === null) return;
    await sleep(witnessAwayMs);
    await this.#site.startWitness();
  }

  async #strike(host: HostName): Promise<void> {
    const site = this.#site;
    switch (this.#step.kind) {
      case "server SIGKILL":
        await site.signalServer(host, "SIGKILL");
        return;
      case "server SIGSEGV":
        await segfault((await site.service(host)).app.pid!);
        return;
      case "server SIGSTOP":
        await site.signalServer(host, "SIGSTOP");
        return;
      case "daemon SIGKILL":
        await site.killDaemon(host);
        return;
      case "daemon SIGSTOP":
        Deno.kill(site.daemonPid(host), "SIGSTOP");
        return;
      case "power cut":
        await site.crash(host);
        return;
      case "isolation":
        await site.topology.setLink(host, "wit0", false);
        await this.#setReplication(host, false);
        return;
      case "replication cut":
        await this.#setReplication(host, false);
        return;
      case "client cut":
        await site.topology.setLink(host, "client", false);
    }
  }

  async #setReplication(host: HostName, up: boolean): Promise<void> {
    for (const link of this.#site.topology.replicationLinks) {
      await this.#site.topology.setLink(host, link, up);
    }
  }

  async #repair(host: HostName, pid: number | null): Promise<void> {
    const site = this.#site;
    switch (this.#step.kind) {
      case "server SIGKILL":
      case "server SIGSEGV":
        await until(async () => {
          const { state, pid: next } = (await site.service(host)).app;
          return state === "running" && next !== pid;
        }, { what: `the server of ${host} to run again`, timeoutMs: TIMEOUT_MS });
        return;
      case "server SIGSTOP":
        await site.signalServer(host, "SIGCONT");
        return;
      case "daemon SIGKILL":
        await site.startDaemon(host);
        return;
      case "daemon SIGSTOP":
        Deno.kill(site.daemonPid(host), "SIGCONT");
        return;
      case "power cut":
        await site.revive(host);
        return;
      case "isolation":
        await site.topology.setLink(host, "wit0", true);
        await this.#setReplication(host, true);
        return;
      case "replication cut":
        await this.#setReplication(host, true);
        return;
      case "client cut":
        await site.topology.setLink(host, "client", true);
    }
  }

  // Judgement -------------------------------------------------------------------------------------

  /** Waits until a daemon has judged the fault and acted; says where the service is then. */
  async #waitJudged(victim: HostName): Promise<"moves" | "stays"> {
    const { kind } = this.#step;
    return await until(() => {
      const verdicts = OWN_VERDICTS[kind];
      return verdicts === undefined
        ? this.#silenceJudged(victim)
        : this.#ownJudged(victim, verdicts);
    }, { what: `a judgement of ${kind} at ${victim}`, timeoutMs: TIMEOUT_MS });
  }

  /** What is said of the victim's own server or card. */
  async #ownJudged(
    victim: HostName,
    verdicts: readonly string[],
  ): Promise<"moves" | "stays" | undefined> {
    const said = [...await this.#judgements("a"), ...await this.#judgements("b")];
    const isNamed = said.some(({ judgement, evidence }) =>
      evidence.node === victim && verdicts.includes(judgement)
    );
    if (!isNamed) return undefined;
    if (victim !== this.#primary) return "stays";
    const { role, lastTakeover } = await this.#site.service(this.#site.other(victim));
    if (role !== "primary") return undefined;
    assert.ok(verdicts.includes(lastTakeover?.reason ?? ""), lastTakeover?.reason);
    return "moves";
  }

  async #silenceJudged(victim: HostName): Promise<"moves" | "stays" | undefined> {
    const standby = this.#site.other(this.#primary);
    const canAnswer = (host: HostName) => host !== victim || !DUMB.includes(this.#step.kind);
    if (canAnswer(standby)) {
      const { role, lastTakeover } = await this.#site.service(standby);
      const said = await this.#judgements(standby);
      if (role === "primary" && said.some(({ judgement }) => judgement === "peer silent")) {
        assert.equal(lastTakeover?.reason, "peer-silent");
        return "moves";
      }
    }
    if (!canAnswer(this.#primary)) return undefined;
    const said = await this.#judgements(this.#primary);
    return said.some(({ judgement }) => judgement === "standby lost") ? "stays" : undefined;
  }

  /** What a host has judged since the fault. */
  async #judgements(host: HostName): Promise<Judgement[]> {
    const { judgements } = await this.#site.service(host);
    return judgements.filter(({ at }) => Date.parse(at) >= this.#faultMs);
  }
}

/**
 * Ends a process by SIGSEGV. A Rust program takes the first one for a guess at its stack's end and goes on,
 * with the signal's default action restored; a second one that comes too soon is one with the first.
 */
async function segfault(pid: number): Promise<void> {
  for (let tries = 0; tries < SEGFAULT_TRIES_MAX; tries++) {
    try {
      Deno.kill(pid, "SIGSEGV");
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return;
      throw error;
    }
    await sleep(2);
  }
  throw new Error(`Cannot end process ${pid}: it lives after ${SEGFAULT_TRIES_MAX} SIGSEGV`);
}
