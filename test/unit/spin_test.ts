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
  spin.noteBusy(2013.1);
  assert.equal(spin.isCrowded(2013.1), false);
  assert.equal(spin.isDue(2013.11), true);
});

Deno.test("a machine that is crowded again and again counts as crowded for longer, up to a minute", () => {
  const spin = new Spin(50);
  let nowMs = 0;
  const lengths = Array.from({ length: 8 }, () => {
    spin.noteLate(6, ++nowMs);
    const sinceMs = nowMs;
    while (spin.isCrowded(nowMs)) nowMs++;
    return nowMs - sinceMs;
  });
  assert.deepEqual(lengths, [2000, 4000, 8000, 16_000, 32_000, 64_000, 64_000, 64_000]);
  nowMs += 64_000;
  spin.noteLate(6, nowMs);
  assert.equal(spin.isCrowded(nowMs + 1999), true);
  assert.equal(spin.isCrowded(nowMs + 2000), false);
});

Deno.test("zero is never", () => {
  const spin = new Spin(0);
  spin.noteBusy(10);
  spin.noteSlept(0);
  assert.equal(spin.isDue(10), false);
});
