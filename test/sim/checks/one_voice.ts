/**
 * one_voice.ts - P3: one replica speaks in an epoch, and never two at a time
 */
import type { SimHost } from "../host.ts";
import { type Check, type Scene, Violation } from "./check.ts";

/** CONFIRM_MS of replica.ts, and the time of an answer. */
const LEARN_MS = 1500;

/** Looks at every packet that leaves for a client. */
export class OneVoice implements Check {
  readonly name = "one voice";
  readonly #scene: Scene;
  /** Which life of which host has spoken in an epoch. */
  readonly #speakers = new Map<number, string>();
  #newest = 0;
  /** When a host's card was last seen dead. */
  readonly #cutOffMs = new Map<SimHost, number>();

  constructor(scene: Scene) {
    this.#scene = scene;
  }

  said(host: SimHost): void {
    const { epoch } = host.replica;
    const who = `${host.name}${host.life}`;
    const before = this.#speakers.get(epoch);
    if (before !== undefined && before !== who) {
      throw new Violation(this.name, `${who} speaks in epoch ${epoch} of ${before}`);
    }
    this.#speakers.set(epoch, who);
    if (epoch < this.#newest) {
      if (this.#isBack(host)) return;
      const newest = `${this.#newest} of ${this.#speakers.get(this.#newest)}`;
      throw new Violation(this.name, `${who} speaks in epoch ${epoch} after ${newest}`);
    }
    this.#newest = epoch;
    for (const other of this.#scene.hosts) {
      if (other === host || !other.isUp || !other.claimed || this.#scene.isSilent(other)) continue;
      if (this.#isBack(host) || this.#isBack(other)) continue;
      if (other.replica.voiceUntilMs >= other.clock()) {
        const untilMs = (other.replica.voiceUntilMs - other.clock()).toFixed(1);
        const theirs =
          `${other.name}${other.life} may speak in ${other.replica.epoch} for ${untilMs} ms`;
        throw new Violation(this.name, `${who} speaks in epoch ${epoch} while ${theirs}`);
      }
    }
  }

  passed(host: SimHost): void {
    if (this.#scene.isSilent(host)) this.#cutOffMs.set(host, this.#scene.nowMs);
  }

  /** Its card was dead a moment ago: it may not have learnt yet who speaks. */
  #isBack(host: SimHost): boolean {
    return this.#scene.nowMs - (this.#cutOffMs.get(host) ?? -Infinity) < LEARN_MS;
  }
}
