/**
 * bounded.ts - P9: queues have their limits, and what connections held is free when they are gone
 */
import { QUEUE_MAX, type RecordView, type SimHost } from "../host.ts";
import { type Check, type Scene, Violation } from "./check.ts";

/** BACKLOG_MAX of runtime/channel.ts. */
const BACKLOG_OCTETS_MAX = 16 << 20;

/** `Phase.Syn` and `Phase.Half` of core/flow/connection.ts. */
const PHASE_SYN = 1;
const PHASE_HALF = 2;

/** Looks at hosts after each pass and at the end. */
export class Bounded implements Check {
  readonly name = "bounded";
  readonly #scene: Scene;
  readonly #free = new WeakMap<object, number>();

  constructor(scene: Scene) {
    this.#scene = scene;
  }

  passed(host: SimHost): void {
    const { wasm } = host.core;
    if (!this.#free.has(wasm)) this.#free.set(wasm, wasm.blockOctetsFree());
    const backlog = host.channel?.backlogOctets ?? 0;
    if (
      backlog > BACKLOG_OCTETS_MAX || host.net.length > QUEUE_MAX || host.app.length > QUEUE_MAX
    ) {
      const sizes = `backlog ${backlog}, queues ${host.net.length} and ${host.app.length}`;
      throw new Violation(this.name, `${host.name} has ${sizes}`);
    }
  }

  ended(): void {
    if (!this.#scene.awaitsRecords) return;
    const lost = [...this.#scene.clients.values()].filter(({ done }) => !done).length;
    for (const host of this.#scene.hosts) {
      const { wasm } = host.core;
      // A server whose client was lost without a word may keep what it had.
      const strays = host.records().filter((record) => this.#isStray(record));
      const records = wasm.recordsUsed() - strays.length;
      const used = (this.#free.get(wasm) ?? 0) - wasm.blockOctetsFree();
      const held = wasm.heldCount();
      if (records > lost || held > 0 || (lost === 0 && used > 0)) {
        const what = `${records} records, ${held} held packets and ${used} octets of blocks`;
        const which = host.records().map(({ port, field }) =>
          `${port}: phase ${field("phase")} leg ${field("leg")} flags ${field("flags")}`
        );
        throw new Violation(
          this.name,
          `${host.name} keeps ${what} of nobody: ${which.join(", ")}`,
        );
      }
    }
  }

  /**
   * Of a SYN that came late it goes by its own timer, in HALF_OPEN_MS of core/limits.ts. A server may have answered
   * it; the client, whose connection is over, does not want that one.
   */
  #isStray({ port, field }: RecordView): boolean {
    const isOver = this.#scene.clients.get(port)?.done === true;
    return field("phase") === PHASE_SYN || (isOver && field("phase") === PHASE_HALF);
  }
}
