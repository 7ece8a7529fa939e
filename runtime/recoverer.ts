/**
 * recoverer.ts - log mode in the loop: does to a service's core what its Recovery decides
 *
 * Theory of operation
 * After each pass on a primary, and on a hot host's standby, the loop calls `step()`. What the core has to say
 * follows at once: effects fill the output list anew, and `flush` writes it, as the loop does after a pass.
 *
 *   ends held? -> /proc, probe -> Recovery -> confirm | detach | replay -> flush
 *
 * Limits: see protocol/recovery.ts.
 */
import type { Core } from "./core.ts";
import { type Life, lifeOf } from "./io/exiting.ts";
import { Recovery, type RecoveryEffect, type RecoveryReason } from "./protocol/recovery.ts";
import type { RecoveryStatus } from "./status.ts";

/** What the loop does for a recoverer. */
export interface RecovererHost {
  /** Writes what the core has made since `begin()`. */
  flush: () => void;
  /** The server failed: said in the log and in status. */
  onFailure: (reason: RecoveryReason, seen: string) => void;
  /** Every connection has a server that is where its client is, or no longer. */
  onSettled: (settled: boolean) => void;
  /** Finds out who listens, and tells `noteListeners()`. */
  findListeners: () => void;
  /** Every connection is live again. */
  onRecovered: (status: RecoveryStatus) => void;
}

const LISTENING = ["unknown", "yes", "no"] as const;

/** The recovery of one service on one node. */
export class Recoverer {
  readonly #core: Core;
  readonly #ports: readonly number[];
  /** Which of them is probed: the one that was listened at last. */
  #probed = 0;
  readonly #host: RecovererHost;
  readonly #recovery: Recovery;
  readonly #spawns: boolean;
  /** The server's processes; none when they are not known, or one that we start does not run. */
  #pids: number[] = [];
  /** What the last recovery was like. */
  #last: RecoveryStatus["last"] = null;
  /** Connections that were without a server when the current one began. */
  #connections = 0;

  /** `ports`: those of the service; `spawns`: the server is started by us. */
  constructor(
    core: Core,
    options: { ports: readonly number[]; spawns: boolean; nowMs: number; host: RecovererHost },
  ) {
    this.#core = core;
    this.#ports = options.ports;
    this.#host = options.host;
    this.#spawns = options.spawns;
    this.#recovery = new Recovery(options.spawns, options.nowMs);
  }

  /** The loop must come back within milliseconds, whatever else happens. */
  get isBusy(): boolean {
    return this.#recovery.isBusy;
  }

  /** The server that we start runs. */
  noteStart(pid: number): void {
    this.#pids = [pid];
    this.#recovery.handleStart();
  }

  /** Who listens, of a server that somebody else started. */
  noteListeners(pids: number[]): void {
    this.#pids = pids;
  }

  /** It has ended. */
  noteExit(how: string, nowMs: number): void {
    this.#pids = [];
    this.#perform(this.#recovery.handleExit(how, nowMs), nowMs);
  }

  /** Connections leave the server, which is to be replaced; returns how many. */
  restart(nowMs: number): number {
    this.#perform(this.#recovery.handleRestart(nowMs), nowMs);
    return this.#connections;
  }

  /** The server hangs, as `seen` shows: connections leave it, and another one is going to be started. */
  noteHang(seen: string, nowMs: number): void {
    this.#perform(this.#recovery.handleHang(seen, nowMs), nowMs);
  }

  /** This node has become primary; `isFed`: its server was fed while it stood by. */
  notePromoted(nowMs: number, isFed: boolean): void {
    // It goes on with what it has been played so far.
    if (isFed && this.#recovery.state !== "waiting") return;
    this.#recovery.handlePromoted(nowMs);
    this.#connections = this.#core.wasm.behind();
  }

  /** After a pass. */
  step(nowMs: number): void {
    const { wasm } = this.#core;
    this.#perform(
      this.#recovery.handlePass({
        nowMs,
        endsHeld: wasm.endsHeld() !== 0,
        listening: LISTENING[wasm.probeAnswer()],
        look: () => this.#look(),
        behind: () => wasm.behind(),
      }),
      nowMs,
    );
  }

  /** For people. */
  status(nowMs: number): RecoveryStatus {
    const { state, reason, sinceMs } = this.#recovery;
    return {
      state,
      reason,
      forMs: state === "live" ? null : nowMs - sinceMs,
      behind: this.#core.wasm.behind(),
      last: this.#last,
    };
  }

  /** It runs as long as one of its processes does. */
  #look(): "unknown" | Life {
    if (this.#pids.length === 0) return this.#spawns ? "gone" : "unknown";
    let life: Life = "gone";
    for (const pid of this.#pids) {
      const its = lifeOf(pid);
      if (its === "runs") return its;
      if (its === "exiting") life = its;
    }
    return life;
  }

  #perform(effects: RecoveryEffect[], nowMs: number): void {
    const { wasm } = this.#core;
    for (const effect of effects) {
      wasm.begin(nowMs >>> 0);
      switch (effect.kind) {
        case "probe":
          // A server need not listen at all of them.
          if (this.#recovery.state === "waiting" && LISTENING[wasm.probeAnswer()] === "no") {
            this.#probed = (this.#probed + 1) % this.#ports.length;
          }
          wasm.probe(this.#ports[this.#probed], effect.again ? 1 : 0);
          break;
        case "confirm":
          wasm.confirmEnds();
          break;
        case "replay":
          if (!this.#spawns) {
            this.#pids = [];
            this.#host.findListeners();
          }
          wasm.replay();
          break;
        case "detach":
          while (wasm.detach() !== 0) {
            this.#host.flush();
            wasm.begin(nowMs >>> 0);
          }
          this.#connections = wasm.behind();
          this.#host.onSettled(false);
          if (effect.seen !== null) this.#host.onFailure(effect.reason, effect.seen);
          break;
        case "recovered": {
          const { reason, tookMs, waitedMs } = effect;
          const connections = this.#connections;
          this.#last = { reason, connections, tookMs, waitedMs };
          this.#connections = 0;
          this.#host.onSettled(true);
          if (connections > 0) this.#host.onRecovered(this.status(nowMs));
          break;
        }
      }
      this.#host.flush();
    }
  }
}
