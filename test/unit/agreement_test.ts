/**
 * agreement_test.ts - two sides come to the same secret, and each can always read what the other sends
 */
import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import {
  Agreement,
  type AgreementEffect,
  type ControlMessage,
  decodeControl,
  DRAIN_MS,
  encodeControl,
  PROPOSAL_MS,
} from "../../runtime/protocol/agreement.ts";
import { Keyring, SECRET_LENGTH } from "../../runtime/protocol/keyring.ts";

const RENEW_MS = 60_000;
let drawn = 0;

/** Different octets at each call, the same in each run. */
function random(): Uint8Array {
  drawn++;
  return new Uint8Array(SECRET_LENGTH).map((_, index) => drawn * 31 + index);
}

/** Two nodes whose control connection can break after any message. */
class Pair {
  readonly rings = [new Keyring(1 << 30), new Keyring(1 << 30)];
  machines = Pair.#machines();
  nowMs = 0;
  /** Messages that still get through. */
  messagesLeft = Infinity;

  static #machines(): Agreement[] {
    return [true, false].map((proposes) => new Agreement({ proposes, renewMs: RENEW_MS, random }));
  }

  /** A new control connection in place of a broken one. */
  reconnect(): void {
    this.machines = Pair.#machines();
    this.messagesLeft = Infinity;
  }

  tick(ms: number): void {
    this.nowMs += ms;
    for (const side of [0, 1]) this.perform(side, this.machines[side].handleTime(this.nowMs));
  }

  perform(side: number, effects: AgreementEffect[]): void {
    for (const effect of effects) {
      const ring = this.rings[side];
      if (effect.kind === "install") ring.install(effect.id, Uint8Array.fromHex(effect.secret));
      else if (effect.kind === "use") ring.use(effect.id);
      else if (effect.kind === "keepOnly") ring.keepOnly(effect.id);
      else if (effect.kind === "close") throw new Error(effect.why);
      this.check();
      if (effect.kind === "send" && this.messagesLeft-- > 0) {
        const message = decodeControl(encodeControl(effect.message));
        this.perform(1 - side, this.machines[1 - side].handle(message, this.nowMs));
      }
    }
  }

  /** What one side sends now, the other can read: there is no gap. */
  check(): void {
    for (const side of [0, 1]) {
      const { sendId } = this.rings[side];
      if (sendId === null) continue;
      const [own, other] = [this.rings[side].secret(sendId), this.rings[1 - side].secret(sendId)];
      ok(other !== undefined, `side ${1 - side} cannot read what ${side} sends`);
      deepStrictEqual(own, other);
      this.rings[1 - side].noteHeard(sendId);
    }
  }
}

Deno.test("Agreement: both sides send with the same secret, and renew it in time", () => {
  const pair = new Pair();
  pair.tick(0);
  const [first] = pair.rings.map(({ sendId }) => sendId);
  ok(first !== null);
  strictEqual(pair.rings[1].sendId, first);
  pair.tick(RENEW_MS - 1);
  strictEqual(pair.rings[0].sendId, first);
  pair.tick(1);
  const second = pair.rings[0].sendId;
  ok(second !== first);
  strictEqual(pair.rings[1].sendId, second);
  // What was sealed with the old one may be on its way for a while.
  deepStrictEqual(pair.rings[1].ids, [first, second]);
  pair.tick(DRAIN_MS);
  for (const ring of pair.rings) deepStrictEqual(ring.ids, [second]);
});

Deno.test("Agreement: either side's worn key is renewed at once", () => {
  const pair = new Pair();
  pair.tick(0);
  for (const side of [0, 1]) {
    const before = pair.rings[0].sendId;
    pair.perform(side, pair.machines[side].handleWorn(pair.nowMs));
    ok(pair.rings[0].sendId !== before);
    strictEqual(pair.rings[1].sendId, pair.rings[0].sendId);
  }
});

Deno.test("Agreement: a connection that breaks after any message, any number of times, leaves no gap", () => {
  for (let first = 0; first < 5; first++) {
    for (let then = 0; then < 5; then++) {
      const pair = new Pair();
      pair.tick(0);
      for (const messages of [first, then, then, then, then, first, Infinity]) {
        pair.reconnect();
        pair.messagesLeft = messages;
        pair.tick(RENEW_MS);
      }
      pair.tick(DRAIN_MS);
      strictEqual(pair.rings[0].sendId, pair.rings[1].sendId);
      for (const ring of pair.rings) strictEqual(ring.ids.length, 1);
    }
  }
});

Deno.test("Agreement: a key that is worn while a new one is proposed needs no other proposal", () => {
  const proposer = new Agreement({ proposes: true, renewMs: RENEW_MS, random });
  strictEqual(proposer.handleTime(0)[0].kind, "send");
  deepStrictEqual(proposer.handleWorn(1), []);
});

Deno.test("Agreement: a proposal nobody answers, and a message out of turn, end the connection", () => {
  const proposer = new Agreement({ proposes: true, renewMs: RENEW_MS, random });
  strictEqual(proposer.handleTime(0)[0].kind, "send");
  deepStrictEqual(proposer.handleTime(PROPOSAL_MS), []);
  strictEqual(proposer.handleTime(PROPOSAL_MS + 1)[0].kind, "close");
  const half = "00".repeat(32);
  const wrong: [boolean, ControlMessage][] = [
    [true, { kind: "propose", id: 1, half }],
    [true, { kind: "accept", id: 1, half }],
    [true, { kind: "use", id: 1 }],
    [true, { kind: "used", id: 1 }],
    [false, { kind: "accept", id: 1, half }],
    [false, { kind: "use", id: 1 }],
    [false, { kind: "used", id: 1 }],
    [false, { kind: "renew" }],
  ];
  for (const [proposes, message] of wrong) {
    const machine = new Agreement({ proposes, renewMs: RENEW_MS, random });
    const effects = machine.handle(message, 0);
    deepStrictEqual(effects, [{ kind: "close", why: `${message.kind} out of turn` }]);
  }
});

Deno.test("decodeControl() refuses what encodeControl() does not make", () => {
  const half = "0f".repeat(32);
  const messages: ControlMessage[] = [
    { kind: "propose", id: 0xffffffff, half },
    { kind: "accept", id: 0, half },
    { kind: "use", id: 7 },
    { kind: "used", id: 7 },
    { kind: "renew" },
    { kind: "ping" },
  ];
  for (const message of messages) {
    const bytes = encodeControl(message);
    deepStrictEqual(decodeControl(bytes), message);
    for (let length = 0; length < bytes.length; length++) {
      throws(() => decodeControl(bytes.slice(0, length)), { name: "MessageError" });
    }
  }
  const bytes = encodeControl({ kind: "ping" });
  throws(() => decodeControl(bytes.with(2, 23)), { message: /its kind is 23/ });
  throws(() => decodeControl(encodeControl({ kind: "propose", id: 1, half: "xy".repeat(32) })), {
    message: /half is not 64 hexadecimal digits/,
  });
});
