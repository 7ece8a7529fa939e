/**
 * output_commit.ts - P2: whoever goes on with the connections has all that clients were told
 *
 * When a standby has adopted its connections, each one that clients count on must be there, must have
 * every octet that was acknowledged to the client, and with `strict` all on which what was said depends.
 */
import type { SimHost, TakeoverStep } from "../host.ts";
import { mostSaid } from "../traffic.ts";
import { type Check, type Scene, Violation } from "./check.ts";

/** Looks at every takeover. */
export class OutputCommit implements Check {
  readonly name = "output commit";
  readonly #scene: Scene;

  constructor(scene: Scene) {
    this.#scene = scene;
  }

  reached(host: SimHost, step: TakeoverStep): void {
    // Who was stopped on the way may have nothing to say any more, and will say nothing.
    if (step !== "adopted" || host.replica.voiceUntilMs < host.clock()) return;
    const records = new Map(host.records().map((record) => [record.port, record]));
    for (const [port, { ack, said }] of this.#scene.told) {
      const client = this.#scene.clients.get(port);
      if (client === undefined || client.excuse !== null || client.done) continue;
      const { state, ended } = client.socket.endpoint;
      // What is over on the wire may be forgotten.
      if (state !== "open" || ended) continue;
      const record = records.get(port);
      const who = `${host.name} goes on with epoch ${host.replica.epoch}`;
      if (record === undefined) {
        throw new Violation(this.name, `${who} without the connection of client ${port}`);
      }
      const rcvNxt = record.field("rcvNxt");
      if (((rcvNxt - ack) | 0) < 0) {
        const lacks = `${(ack - rcvNxt) >>> 0} octets that were acknowledged to client ${port}`;
        throw new Violation(this.name, `${who} and lacks ${lacks}`);
      }
      const read = (rcvNxt - client.iss - 1) >>> 0;
      if (this.#scene.commit === "strict" && said > mostSaid(client.plan, read)) {
        const what = `client ${port} was told ${said} octets, its input is known up to ${read}`;
        throw new Violation(this.name, `${who}: ${what}`);
      }
    }
  }
}
