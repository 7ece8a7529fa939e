/**
 * progress.ts - after all faults are mended, every connection ends well that may not be lost
 */
import { type Check, type Scene, Violation } from "./check.ts";

/** Looks at clients and roles at the end. */
export class Progress implements Check {
  readonly name = "progress";
  readonly #scene: Scene;

  constructor(scene: Scene) {
    this.#scene = scene;
  }

  ended(): void {
    for (const { plan, socket, done, excuse, compared, expected } of this.#scene.clients.values()) {
      if (done || excuse !== null) continue;
      const { state, isDrained } = socket.endpoint;
      const what =
        `read ${compared} of ${expected.length}, ${isDrained ? "all" : "not all"} of its ` +
        `input is acknowledged, its state is ${state}`;
      throw new Violation(this.name, `${plan.kind} ${plan.port} did not end: ${what}`);
    }
    const roles = this.#scene.hosts.map(({ replica }) => replica.role);
    if (!this.#scene.isSettled) {
      throw new Violation(this.name, `the roles at the end are ${roles.join(" and ")}`);
    }
  }
}
