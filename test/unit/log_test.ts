/**
 * log_test.ts - log lines: one event, one line, whatever the fields hold
 *
 * Lines go into an array instead of standard error.
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { createLogger, FIELD_LENGTH_MAX, Repeats, REPEATS_MAX } from "../../runtime/log.ts";

function collect(): { lines: string[]; write: (line: string) => void } {
  const lines: string[] = [];
  return { lines, write: (line) => lines.push(line) };
}

Deno.test("createLogger() writes one line of text per event, whatever its fields hold", () => {
  const { lines, write } = collect();
  const log = createLogger({ write });
  log.info("takeover", { service: "web", epoch: 3, why: "peer silent", none: undefined, at: null });
  log.warn("forged\nline", { line: "a\nb", quote: '"', error: new Error("no x=1"), big: 5n });
  const [first, second] = lines.map((line) => line.replace(/^\S+Z /, ""));
  strictEqual(first, 'info  takeover service=web epoch=3 why="peer silent" at=null\n');
  strictEqual(second, 'warn  forged line line="a\\nb" quote="\\"" error="no x=1" big=5\n');
});

Deno.test("createLogger() writes JSON that says the same", () => {
  const { lines, write } = collect();
  createLogger({ format: "json", write }).error("x", { level: "fake", n: 1n, e: new Error("bad") });
  const { time, ...rest } = JSON.parse(lines[0]);
  ok(Math.abs(Date.parse(time) - Date.now()) < 60_000);
  deepStrictEqual(rest, { level: "error", event: "x", n: "1", e: "bad" });
});

Deno.test("createLogger() leaves out what is less grave than its level", () => {
  const { lines, write } = collect();
  const log = createLogger({ level: "warn", write });
  log.debug("a");
  log.info("b");
  log.warn("c");
  log.error("d");
  strictEqual(lines.length, 2);
});

Deno.test("createLogger() shortens what is too long", () => {
  const { lines, write } = collect();
  createLogger({ write }).info("x", { line: "y".repeat(FIELD_LENGTH_MAX + 1) });
  ok(lines[0].includes(`... (${FIELD_LENGTH_MAX + 1} characters)`));
});

Deno.test("Repeats lets an event through once per interval and counts the others", () => {
  const repeats = new Repeats(100);
  strictEqual(repeats.note("a", 0), 0);
  strictEqual(repeats.note("a", 50), null);
  strictEqual(repeats.note("b", 60), 0);
  strictEqual(repeats.note("a", 99), null);
  strictEqual(repeats.note("a", 100), 2);
  strictEqual(repeats.note("a", 200), 0);
});

Deno.test("Repeats forgets the oldest event when it has to remember too many", () => {
  const repeats = new Repeats(1000);
  for (let i = 0; i <= REPEATS_MAX; i++) repeats.note(`event ${i}`, 0);
  strictEqual(repeats.note("event 1", 1), null);
  strictEqual(repeats.note("event 0", 1), 0);
});
