/**
 * state_first.ts - P7: state before address
 *
 * Before a host claims the address, it has applied all it had received of the old primary, and made
 * every record able to speak.
 */
import type { SimHost, TakeoverStep } from "../host.ts";
import { type Check, Violation } from "./check.ts";

/** `Flag.Taken` of core/flow/connection.ts: promote() has been there. */
const TAKEN = 524288;

/** Looks at the steps of every takeover. */
export class StateFirst implements Check {
  readonly name = "state before address";
  /** Who has adopted, and not claimed since. */
  readonly #adopted = new Set<SimHost>();

  reached(host: SimHost, step: TakeoverStep): void {
    if (step === "drained") {
      const left = host.channel?.inbox.length ?? 0;
      if (left > 0) {
        throw new Violation(this.name, `${host.name} leaves ${left} received frames unapplied`);
      }
    }
    if (step === "adopted") this.#adopted.add(host);
    if (step !== "claimed") return;
    if (!this.#adopted.delete(host)) {
      throw new Violation(this.name, `${host.name} claims the address before it has adopted`);
    }
    for (const { port, field } of host.records()) {
      if ((field("flags") & TAKEN) === 0) {
        const what = `before the connection of client ${port} can be spoken for`;
        throw new Violation(this.name, `${host.name} claims the address ${what}`);
      }
    }
  }
}
