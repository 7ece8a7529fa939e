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

Deno.test("who yields a core to somebody that computes sleeps for a while", () => {
  const spin = new Spin(50);
  spin.noteBusy(10);
  spin.noteYielded(10, 10.01);
  assert.equal(spin.isDue(10.02), true);
  spin.noteYielded(10.02, 13);
  spin.noteBusy(13);
  assert.equal(spin.isDue(13.01), false);
  spin.noteBusy(33.1);
  assert.equal(spin.isDue(33.11), true);
});

Deno.test("zero is never", () => {
  const spin = new Spin(0);
  spin.noteBusy(10);
  spin.noteSlept(0);
  assert.equal(spin.isDue(10), false);
});
