/**
 * one_voice.ts - P3: one replica speaks in an epoch, and never two at a time
 */
import type { SimHost } from "../host.ts";
import { type Check, type Scene, Violation } from "./check.ts";

/** Looks at every packet that leaves for a client. */
export class OneVoice implements Check {
  readonly name = "one voice";
  readonly #scene: Scene;
  /** Which life of which host has spoken in an epoch. */
  readonly #speakers = new Map<number, string>();
  #newest = 0;

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
      const newest = `${this.#newest} of ${this.#speakers.get(this.#newest)}`;
      throw new Violation(this.name, `${who} speaks in epoch ${epoch} after ${newest}`);
    }
    this.#newest = epoch;
    for (const other of this.#scene.hosts) {
      if (other === host || !other.isUp || !other.claimed || this.#scene.isSilent(other)) continue;
      if (other.replica.voiceUntilMs >= other.clock()) {
        const untilMs = (other.replica.voiceUntilMs - other.clock()).toFixed(1);
        const theirs =
          `${other.name}${other.life} may speak in ${other.replica.epoch} for ${untilMs} ms`;
        throw new Violation(this.name, `${who} speaks in epoch ${epoch} while ${theirs}`);
      }
    }
  }
}
