/**
 * health_test.ts - when is a server found to hang by its health command?
 */
import { deepStrictEqual, match, strictEqual, throws } from "node:assert/strict";
import { Health, type HealthEffect } from "../../runtime/protocol/health.ts";

const RULE = { everyMs: 1000, failures: 3 };
const YES = () => true;
const NO = () => false;

function kinds(effects: HealthEffect[]): string[] {
  return effects.map(({ kind }) => kind);
}

/** One command at `nowMs`, which says `complaint`. */
function ask(health: Health, nowMs: number, complaint: string | null): HealthEffect[] {
  const [effect] = health.handleTime(nowMs, YES);
  strictEqual(effect?.kind, "run");
  return health.handleResult((effect as { number: number }).number, complaint);
}

Deno.test("nothing is asked before the server has listened, and then every so often, one at a time", () => {
  const health = new Health(RULE, true);
  deepStrictEqual(health.handleTime(0, NO), []);
  deepStrictEqual(health.handleTime(999, YES), [], "looked for once in the interval");
  deepStrictEqual(health.handleTime(1000, YES), [{ kind: "run", number: 1 }]);
  deepStrictEqual(health.handleTime(5000, YES), [], "the first one runs still");
  deepStrictEqual(health.handleResult(1, null), []);
  const unlooked = () => {
    throw new Error("it has listened");
  };
  deepStrictEqual(health.handleTime(5000, unlooked), [{ kind: "run", number: 2 }]);
  throws(() => health.handleResult(1, null));
});

Deno.test("failures in a row make a server that hangs, which is told again after as many more", () => {
  const health = new Health(RULE, true);
  let nowMs = 0;
  const next = (complaint: string | null) => ask(health, nowMs += 1000, complaint);
  for (const complaint of ["status 1", "status 1", null, "status 1", "status 1"]) {
    deepStrictEqual(next(complaint), []);
  }
  const [found] = next("it took longer than 2000 ms");
  strictEqual(found.kind, "hangs");
  match(
    (found as { seen: string }).seen,
    /failed 3 times in a row, .*: it took longer than 2000 ms/,
  );
  strictEqual(health.hangs, true);
  deepStrictEqual([next("x"), next("x")].flat(), []);
  deepStrictEqual(next("x").map((effect) => "again" in effect && effect.again), [true]);
  deepStrictEqual(kinds(next(null)), ["goesOn"]);
  strictEqual(health.hangs, false);
});

Deno.test("a command that has never succeeded is not believed, which is told once", () => {
  const health = new Health(RULE, true);
  const said = [1, 2, 3, 4, 5, 6].map((second) => kinds(ask(health, 1000 * second, "status 127")));
  deepStrictEqual(said.flat(), ["useless"]);
  strictEqual(health.hangs, false);
  ask(health, 7000, null);
  const then = [8, 9, 10].map((second) => kinds(ask(health, 1000 * second, "status 1")));
  deepStrictEqual(then.flat(), ["hangs"]);
});

Deno.test("what was asked before the server ended says nothing of the next one", () => {
  const health = new Health({ ...RULE, failures: 1 }, true);
  ask(health, -1000, null);
  deepStrictEqual(kinds(health.handleTime(0, YES)), ["run"]);
  health.handleEnd();
  deepStrictEqual(health.handleTime(100, YES), [], "two at once");
  deepStrictEqual(health.handleResult(2, "killed with it"), []);
  deepStrictEqual(health.handleTime(200, NO), []);
  deepStrictEqual(kinds(ask(health, 1200, "status 1")), ["hangs"]);
  health.handleEnd();
  strictEqual(health.hangs, false, "another one is going to be started");
});

Deno.test("a server that is played its log is not asked, and its failures before are forgotten", () => {
  const health = new Health(RULE, false);
  deepStrictEqual(health.handleTime(0, YES), []);
  health.handleSettled(true);
  ask(health, 0, null);
  ask(health, 1000, "status 1");
  ask(health, 2000, "status 1");
  health.handleSettled(false);
  deepStrictEqual(health.handleTime(3000, YES), []);
  health.handleSettled(true);
  deepStrictEqual(kinds(ask(health, 3000, "status 1")), []);
});
