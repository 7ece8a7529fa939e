/**
 * card_test.ts - does this host still hear the clients' network?
 */
import { deepStrictEqual, match, strictEqual } from "node:assert/strict";
import {
  ASK_EVERY_MS,
  ASKS,
  ASKS_MORE,
  BACK_MS,
  Card,
  type CardSight,
  GONE_MS,
  QUIET_MS,
} from "../../runtime/protocol/card.ts";

/** A card with what it is shown, a look every 10 ms. */
class Driver {
  readonly card = new Card();
  nowMs = 5000;
  sight: Omit<CardSight, "nowMs"> = {
    carrier: true,
    received: 1,
    canAsk: () => true,
    primary: false,
  };
  /** When it asked, milliseconds since the start of the last `pass()`. */
  asked: number[] = [];

  pass(ms: number, sight: Partial<CardSight> = {}): string {
    this.sight = { ...this.sight, ...sight };
    this.asked = [];
    const startMs = this.nowMs;
    for (; this.nowMs < startMs + ms; this.nowMs += 10) {
      const asks = this.card.handleLook({ ...this.sight, nowMs: this.nowMs });
      if (asks) this.asked.push(this.nowMs - startMs);
    }
    return this.card.state;
  }
}

Deno.test("a carrier that is gone is a dead card, one that flickers is not", () => {
  const driver = new Driver();
  strictEqual(driver.pass(100), "works");
  strictEqual(driver.pass(GONE_MS - 10, { carrier: false }), "works");
  strictEqual(driver.pass(50, { carrier: true, received: 2 }), "works");
  strictEqual(driver.card.seen, null);
  strictEqual(driver.pass(GONE_MS + 20, { carrier: false }), "no-carrier");
  match(driver.card.seen ?? "", /no carrier/);
});

Deno.test("a carrier counts again when it has been there for a while", () => {
  const driver = new Driver();
  driver.pass(GONE_MS + 20, { carrier: false });
  strictEqual(driver.pass(BACK_MS - 100, { carrier: true }), "no-carrier");
  strictEqual(driver.pass(20, { carrier: false }), "no-carrier");
  strictEqual(driver.pass(BACK_MS - 100, { carrier: true }), "no-carrier", "counted from anew");
  strictEqual(driver.pass(200), "works");
});

Deno.test("a card is deaf when nobody answers, and hears again with the first packet", () => {
  const driver = new Driver();
  strictEqual(driver.pass(QUIET_MS + (ASKS - 1) * ASK_EVERY_MS), "works");
  deepStrictEqual(driver.asked, [500, 750, 1000]);
  strictEqual(driver.pass(2 * ASK_EVERY_MS + 20), "deaf");
  match(driver.card.seen ?? "", /4 questions unanswered/);
  strictEqual(driver.pass(1000), "deaf");
  strictEqual(driver.asked.length, 4, "it goes on asking");
  strictEqual(driver.pass(10, { received: 2 }), "works");
});

Deno.test("a primary asks longer, so that a standby that is as deaf has found out first", () => {
  const driver = new Driver();
  strictEqual(driver.pass(QUIET_MS + (ASKS + 1) * ASK_EVERY_MS, { primary: true }), "works");
  strictEqual(driver.pass(ASKS_MORE * ASK_EVERY_MS), "deaf");
  match(driver.card.seen ?? "", /6 questions unanswered/);
});

Deno.test("who hears something is asked nothing, and an answer starts anew", () => {
  const driver = new Driver();
  for (let received = 2; received < 20; received++) {
    strictEqual(driver.pass(QUIET_MS - 20, { received }), "works");
    deepStrictEqual(driver.asked, []);
  }
  driver.pass(QUIET_MS + ASK_EVERY_MS, { received: 20 });
  strictEqual(driver.asked.length, 1);
  strictEqual(driver.pass(QUIET_MS + ASKS * ASK_EVERY_MS, { received: 21 }), "works");
});

Deno.test("without somebody to ask, or without a counter, silence says nothing", () => {
  const alone = new Driver();
  strictEqual(alone.pass(60_000, { canAsk: () => false }), "works");
  const blind = new Driver();
  strictEqual(blind.pass(60_000, { received: null }), "works");
  deepStrictEqual(blind.asked, []);
});
