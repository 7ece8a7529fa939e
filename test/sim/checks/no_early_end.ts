/**
 * no_early_end.ts - P4: no client is reset, but where the failure model allows it to be lost
 *
 * A FIN that comes too early ends a stream that is too short: gapless.ts finds it.
 */
import type { Client } from "../traffic.ts";
import { type Check, Violation } from "./check.ts";

/** Looks at clients after each packet. */
export class NoEarlyEnd implements Check {
  readonly name = "no early end";

  heard({ plan: { port }, socket: { endpoint }, excuse }: Client): void {
    if (endpoint.state !== "reset" || excuse !== null) return;
    throw new Violation(this.name, `client ${port} was reset and nothing excuses it`);
  }
}
