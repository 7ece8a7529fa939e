/**
 * gapless.ts - P1: clients read what one healthy server would have sent, servers what clients wrote
 */
import type { Endpoint } from "../../unit/endpoint.ts";
import type { Client } from "../traffic.ts";
import { type Check, Violation } from "./check.ts";

/** Compares every octet of both directions with what it must be. */
export class Gapless implements Check {
  readonly name = "gapless";
  readonly #read = new WeakMap<Endpoint, number>();

  heard(client: Client): void {
    const { plan: { port }, socket: { endpoint }, expected } = client;
    client.compared = this.#compare(endpoint, expected, {
      from: client.compared,
      whose: `client ${port}`,
    });
    if (endpoint.ended && client.compared < expected.length) {
      const at = `${client.compared} of ${expected.length} octets`;
      throw new Violation(this.name, `the stream to client ${port} ended after ${at}`);
    }
  }

  read(client: Client, server: Endpoint): void {
    const { input, plan: { port } } = client;
    const from = this.#read.get(server) ?? 0;
    // What was answered before it was started it need not be told (core/segment/cutting.ts).
    const cut = (server.irs - client.iss) >>> 0;
    const whose = `the server of client ${port}`;
    const to = this.#compare(server, input.subarray(cut), { from, whose });
    this.#read.set(server, to);
    if (server.ended && cut + to < input.length) {
      throw new Violation(this.name, `the stream from client ${port} ended after ${to} octets`);
    }
  }

  #compare(
    { received }: Endpoint,
    expected: Uint8Array,
    { from, whose }: { from: number; whose: string },
  ): number {
    if (received.length > expected.length) {
      throw new Violation(
        this.name,
        `${whose} read ${received.length} of ${expected.length} octets`,
      );
    }
    for (let at = from; at < received.length; at++) {
      if (received[at] === expected[at]) continue;
      const what = `${received[at]} at ${at}, expected ${expected[at]}`;
      throw new Violation(this.name, `${whose} read ${what}`);
    }
    return received.length;
  }
}
