/** coverage_test.ts - what is counted as a branch of the core, and how counts become tables. */

import assert from "node:assert/strict";
import { coreCoverage, parseLcov, renderCoverage } from "../measure/coverage.ts";
import { markBranches } from "../measure/core_build.ts";

/** The text with each call replaced by its number in brackets. */
async function marked(text: string): Promise<string> {
  const { text: copy, lines } = await markBranches("a.ts", text);
  assert.equal(lines.length, copy.split("hit(").length - 1, "each number once");
  return copy.replaceAll(/\s*hit\(\d+\);\s*/g, "#");
}

Deno.test("markBranches() counts bodies, arms that are not written, and cases", async () => {
  assert.equal(
    await marked("function f(x: u32): u32 { if (x) return 1; return 2; }"),
    "function f(x: u32): u32 {#if (x) {#return 1; } else {#} return 2; }",
  );
  assert.equal(
    await marked("function f(x: u32): void { if (x > 1) { f(1); } else if (x) f(2); else f(3); }"),
    "function f(x: u32): void {#if (x > 1) {#f(1); } else if (x) {#f(2); } else {#f(3); } }",
  );
  assert.equal(
    await marked(
      "function f(x: u32): void { while (x) x--; for (let i = 0; i < 2; i++) { x++; } }",
    ),
    "function f(x: u32): void {#while (x) {#x--; } for (let i = 0; i < 2; i++) {#x++; } }",
  );
  assert.equal(
    await marked("function f(x: u32): u32 { switch (x) { case 1: return 3; default: return 4; } }"),
    "function f(x: u32): u32 {#switch (x) { case 1:#return 3; default:#return 4; } }",
  );
});

Deno.test("coreCoverage() and parseLcov() make a row of each file", () => {
  const branches = [{ file: "b.ts", line: 1 }, { file: "a.ts", line: 7 }, {
    file: "b.ts",
    line: 3,
  }];
  assert.deepEqual(coreCoverage(branches, [5, 1, 0]), [
    { file: "a.ts", reached: 1, total: 1, missed: [] },
    { file: "b.ts", reached: 1, total: 2, missed: [3] },
  ]);
  const lcov = "SF:/x/runtime/protocol/r.ts\nBRDA:4,0,0,0\nBRDA:9,1,0,12\nBRF:2\nend_of_record\n";
  assert.deepEqual(parseLcov(lcov, "runtime/protocol/"), [
    { file: "r.ts", reached: 1, total: 2, missed: [4] },
  ]);
});

Deno.test("renderCoverage() names what was not reached, and the sum", () => {
  const text = renderCoverage("core", [
    { file: "flow/a.ts", reached: 3, total: 4, missed: [9, 9, 7] },
    { file: "b.ts", reached: 4, total: 4, missed: [] },
  ]);
  assert.equal(
    text,
    `core       branches reached  not reached, by line
flow/a.ts   75.0 %        3/4  7 9
b.ts       100.0 %        4/4
all         87.5 %        7/8`,
  );
});
