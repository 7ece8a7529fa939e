/**
 * hang_watch_test.ts - log mode: a stopped server is told from one that is not, and from a watcher that was away
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { isStopped } from "../../runtime/io/exiting.ts";
import { HangWatch, type HangWatchEffect } from "../../runtime/protocol/hang_watch.ts";

const LAG_MS = 2000;

/** Looks on time for `ms`, and collects what is found. */
function look(watch: HangWatch, at: { nowMs: number }, stopped: boolean, ms: number) {
  const found: HangWatchEffect[] = [];
  for (const untilMs = at.nowMs + ms; at.nowMs < untilMs;) {
    at.nowMs += watch.everyMs;
    const effect = watch.handleLook(stopped, at.nowMs);
    if (effect !== null) found.push(effect);
  }
  return found;
}

Deno.test("a server that is stopped for lag_time hangs, is told of once, and again when it goes on", () => {
  const watch = new HangWatch(LAG_MS);
  const at = { nowMs: 5000 };
  deepStrictEqual(look(watch, at, false, 10_000), []);
  deepStrictEqual(look(watch, at, true, 10_000), [{ kind: "hangs", forMs: LAG_MS }]);
  ok(watch.hangs);
  deepStrictEqual(look(watch, at, false, 1000), [{ kind: "goesOn" }]);
  ok(!watch.hangs);
  deepStrictEqual(look(watch, at, true, 10_000), [{ kind: "hangs", forMs: LAG_MS }]);
});

Deno.test("one that is stopped for less, however often, does not hang", () => {
  const watch = new HangWatch(LAG_MS);
  const at = { nowMs: 0 };
  for (let i = 0; i < 20; i++) {
    deepStrictEqual(look(watch, at, true, LAG_MS - watch.everyMs), []);
    deepStrictEqual(look(watch, at, false, watch.everyMs), []);
  }
});

Deno.test("time in which nobody looked does not count", () => {
  const watch = new HangWatch(LAG_MS);
  strictEqual(watch.handleLook(true, 1000), null);
  strictEqual(watch.handleLook(true, 1000 + 3_600_000), null, "the host was suspended");
  deepStrictEqual(look(watch, { nowMs: 3_601_000 }, true, LAG_MS / 2), []);
});

Deno.test("looks are a part of lag_time apart, and never too seldom or too often", () => {
  strictEqual(new HangWatch(800).everyMs, 100);
  strictEqual(new HangWatch(60_000).everyMs, 250);
  strictEqual(new HangWatch(1).everyMs, 10);
});

Deno.test("isStopped() tells a stopped process from one that waits, and from none", async () => {
  const child = new Deno.Command("sleep", { args: ["60"] }).spawn();
  const { pid } = child;
  const becomes = async (stopped: boolean) => {
    for (let i = 0; i < 1000 && isStopped(pid) !== stopped; i++) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    strictEqual(isStopped(pid), stopped);
  };
  await becomes(false);
  child.kill("SIGSTOP");
  await becomes(true);
  child.kill("SIGCONT");
  await becomes(false);
  child.kill("SIGKILL");
  await child.status;
  strictEqual(isStopped(pid), false);
});
