/** spin_test.ts - the budget of spin.ts follows what happened */
import assert from "node:assert/strict";
import { Spin } from "../../runtime/spin.ts";

Deno.test("a spin ends with its budget", () => {
  const spin = new Spin(50);
  assert.equal(spin.isDue(10), false);
  spin.noteBusy(10);
  assert.equal(spin.isDue(10.049), true);
  assert.equal(spin.isDue(10.051), false);
});

Deno.test("an idle loop stops spinning, and starts again when it would have paid", () => {
  const spin = new Spin(50);
  for (let i = 0; i < 4; i++) spin.noteSlept(3);
  assert.equal(spin.budgetUs, 0);
  spin.noteBusy(10);
  assert.equal(spin.isDue(10), false);
  for (let i = 0; i < 4; i++) spin.noteSlept(0.03);
  assert.equal(spin.budgetUs, 50);
  spin.noteBusy(20);
  assert.equal(spin.isDue(20.04), true);
});

Deno.test("on a crowded machine there is no spinning for a while", () => {
  const spin = new Spin(50);
  spin.noteBusy(10);
  spin.noteLate(4, 10.01);
  assert.equal(spin.isDue(10.02), true);
  spin.noteLate(6, 13);
  spin.noteBusy(13);
  assert.equal(spin.isCrowded(13), true);
  assert.equal(spin.isDue(13.01), false);
  spin.noteBusy(263.1);
  assert.equal(spin.isCrowded(263.1), false);
  assert.equal(spin.isDue(263.11), true);
});

/** Milliseconds until it is crowded when of each millisecond so much is lost; null for never. */
function crowdedAfter(lateMs: number): number | null {
  const spin = new Spin(50);
  for (let ms = 0; ms < 10_000; ms++) {
    spin.noteLate(lateMs, ms);
    if (spin.isCrowded(ms)) return ms;
  }
  return null;
}

Deno.test("who loses a fifth of the time to others is on a crowded machine, a tenth is not", () => {
  const afterMs = crowdedAfter(0.2);
  assert.ok(afterMs !== null && afterMs > 50 && afterMs < 150, `${afterMs}`);
  assert.equal(crowdedAfter(0.14), null);
  // Shorter than that is what a yield to somebody who has little to do costs.
  assert.equal(crowdedAfter(0.09), null);
});

Deno.test("on a crowded machine a pass that moved something is followed by a rest", () => {
  const spin = new Spin(50);
  spin.noteBusy(10);
  assert.equal(spin.restUs(10.01), 0);
  spin.noteLate(6, 10.02);
  assert.equal(spin.restUs(10.05), 100);
  assert.equal(spin.restUs(10.2), 0);
  spin.noteBusy(270);
  assert.equal(spin.restUs(270.01), 0);
});

Deno.test("a machine that is crowded again and again counts as crowded for longer, up to a minute", () => {
  const spin = new Spin(50);
  let nowMs = 0;
  const lengths = Array.from({ length: 10 }, () => {
    spin.noteLate(6, ++nowMs);
    const sinceMs = nowMs;
    while (spin.isCrowded(nowMs)) nowMs++;
    return nowMs - sinceMs;
  });
  assert.deepEqual(lengths, [250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 64_000]);
  nowMs += 64_000;
  spin.noteLate(6, nowMs);
  assert.equal(spin.isCrowded(nowMs + 249), true);
  assert.equal(spin.isCrowded(nowMs + 250), false);
});

Deno.test("zero is never", () => {
  const spin = new Spin(0);
  spin.noteBusy(10);
  spin.noteSlept(0);
  assert.equal(spin.isDue(10), false);
});
