/**
 * epochs.ts - epochs only grow: on each disk, in the register, and none is used before it is stored
 */
import type { RegisterValue } from "../../../runtime/protocol/register.ts";
import type { SimHost, TakeoverStep } from "../host.ts";
import { type Check, Violation } from "./check.ts";

/** Looks at everything that is stored. */
export class Epochs implements Check {
  readonly name = "epochs monotonic";
  #registered = 0;

  stored(host: SimHost, epoch: number): void {
    if (epoch >= host.storedEpoch) return;
    throw new Violation(this.name, `${host.name} stores ${epoch} after ${host.storedEpoch}`);
  }

  registered({ epoch }: RegisterValue): void {
    if (epoch < this.#registered) {
      throw new Violation(this.name, `the register takes ${epoch} after ${this.#registered}`);
    }
    this.#registered = epoch;
  }

  reached(host: SimHost, step: TakeoverStep): void {
    const { epoch } = host.replica;
    if (step !== "adopted" || epoch <= host.storedEpoch) return;
    const stored = `has stored ${host.storedEpoch}`;
    throw new Violation(this.name, `${host.name} speaks in ${epoch} and ${stored}`);
  }
}
