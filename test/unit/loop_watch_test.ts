/**
 * loop_watch_test.ts - a loop that hangs is told from one that is slow, and from a watcher that was away
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { LoopWatch, type LoopWatchEffect } from "../../runtime/protocol/loop_watch.ts";
import { rounds, seededTest } from "./seeded.ts";

const ALLOWED_MS = 100;

/** Looks on time while the count stands, and collects what is found. */
function stand(watch: LoopWatch, from: { passes: number; nowMs: number }, ms: number) {
  const found: LoopWatchEffect[] = [];
  const untilMs = from.nowMs + ms;
  while (from.nowMs < untilMs) {
    from.nowMs += watch.everyMs;
    const effect = watch.handleLook(from.passes, from.nowMs);
    if (effect !== null) found.push(effect);
  }
  return found;
}

Deno.test("a loop that stands is told of once, and again when it goes on", () => {
  const watch = new LoopWatch(ALLOWED_MS);
  const at = { passes: 7, nowMs: 5000 };
  strictEqual(watch.handleLook(at.passes, at.nowMs), null);
  deepStrictEqual(stand(watch, at, 5000), [{ kind: "stands", forMs: ALLOWED_MS }]);
  deepStrictEqual(watch.handleLook(8, at.nowMs), { kind: "goesOn", stoodMs: 5000 });
  strictEqual(watch.handleLook(9, at.nowMs), null);
});

Deno.test("of stalls that follow each other within a second only the first is told", () => {
  const watch = new LoopWatch(ALLOWED_MS);
  const at = { passes: 0, nowMs: 0 };
  let told = 0;
  for (let i = 0; i < 20; i++) {
    at.passes++;
    watch.handleLook(at.passes, at.nowMs);
    told += stand(watch, at, 150).length;
  }
  ok(told >= 2 && told <= 4, `${told} in 3 s`);
});

seededTest("a loop is told of only when it stood for long, whoever looked late", (random) => {
  for (let round = 0; round < rounds(200); round++) {
    const watch = new LoopWatch(ALLOWED_MS);
    let passes = 0;
    let nowMs = 0;
    let stoodMs = 0;
    for (let i = 0; i < 200; i++) {
      const passedMs = watch.everyMs * (random.next() < 0.1 ? 1 + random.integer(50) : 1);
      nowMs += passedMs;
      if (random.next() < 0.5) {
        passes++;
        stoodMs = 0;
      } else stoodMs += passedMs;
      const found = watch.handleLook(passes, nowMs);
      if (found?.kind === "stands") ok(stoodMs >= ALLOWED_MS && found.forMs <= stoodMs);
    }
  }
});
