/**
 * recovery_test.ts - is our server dead, is the next one there, is it where the clients are?
 */
import { deepStrictEqual, match, strictEqual } from "node:assert/strict";
import { isGroupAlive, lifeInStat, lifeOf } from "../../runtime/io/exiting.ts";
import {
  EXTERNAL_WAIT_MS,
  PROBE_MS,
  Recovery,
  type RecoveryEffect,
  type RecoverySight,
} from "../../runtime/protocol/recovery.ts";

/** Nothing to be seen but what `fields` says. */
function sight(fields: Partial<RecoverySight> = {}): RecoverySight {
  return {
    nowMs: 1000,
    endsHeld: false,
    listening: "unknown",
    look: () => "runs",
    behind: () => 0,
    ...fields,
  };
}

/** Each effect in a word or two. */
function words(effects: RecoveryEffect[]): string[] {
  return effects.map((effect) =>
    "reason" in effect ? `${effect.kind} ${effect.reason}` : effect.kind
  );
}

/** A recovery whose server listens. */
function live(spawns = true): Recovery {
  const recovery = new Recovery(spawns, 0);
  if (spawns) recovery.handleStart();
  recovery.handlePass(sight());
  recovery.handlePass(sight({ listening: "yes" }));
  recovery.handlePass(sight());
  strictEqual(recovery.state, "live");
  return recovery;
}

Deno.test("a server we start is probed from its start on, and replayed to when it listens", () => {
  const recovery = new Recovery(true, 0);
  deepStrictEqual(recovery.handlePass(sight()), []);
  recovery.handleStart();
  deepStrictEqual(words(recovery.handlePass(sight())), ["probe"]);
  deepStrictEqual(words(recovery.handlePass(sight({ listening: "no" }))), []);
  const later = 1000 + PROBE_MS;
  deepStrictEqual(words(recovery.handlePass(sight({ nowMs: later, listening: "no" }))), ["probe"]);
  deepStrictEqual(words(recovery.handlePass(sight({ listening: "yes" }))), ["replay"]);
  strictEqual(recovery.state, "replaying");
  deepStrictEqual(recovery.handlePass(sight({ behind: () => 3 })), []);
  deepStrictEqual(recovery.handlePass(sight({ nowMs: 1500 })), [
    { kind: "recovered", reason: "start", tookMs: 1500, waitedMs: 1000 },
  ]);
});

Deno.test("an end that a living server meant is confirmed after a probe", () => {
  const recovery = live();
  deepStrictEqual(words(recovery.handlePass(sight({ endsHeld: true }))), ["probe"]);
  const answered = sight({ endsHeld: true, listening: "yes" });
  deepStrictEqual(words(recovery.handlePass(answered)), ["confirm"]);
  // Ends that came since need a probe of their own.
  deepStrictEqual(words(recovery.handlePass(answered)), ["probe"]);
});

Deno.test("a question without an answer is repeated, and another one is asked after an answer", () => {
  const recovery = new Recovery(true, 0);
  recovery.handleStart();
  const pass = (nowMs: number, fields: Partial<RecoverySight> = {}) =>
    recovery.handlePass(sight({ nowMs, ...fields }));
  deepStrictEqual(pass(0), [{ kind: "probe", again: false }]);
  deepStrictEqual(pass(PROBE_MS), [{ kind: "probe", again: true }]);
  deepStrictEqual(pass(2 * PROBE_MS, { listening: "no" }), [{ kind: "probe", again: false }]);
  // The server ended and another one runs: what was asked of the last says nothing of this one.
  recovery.handleExit("SIGKILL", 25);
  recovery.handleStart();
  deepStrictEqual(pass(26), [{ kind: "probe", again: false }]);
});

Deno.test("an end of an exiting process, or with nobody listening, is the server's death", () => {
  const exiting = live();
  const seen = exiting.handlePass(sight({ endsHeld: true, look: () => "exiting" }));
  deepStrictEqual(words(seen), ["detach app-exited"]);
  deepStrictEqual(exiting.handleExit("SIGKILL", 1001), []);
  strictEqual(exiting.sinceMs, 1000);
  deepStrictEqual(words(exiting.handlePass(sight())), [], "probed when it is started again");

  const silent = live();
  silent.handlePass(sight({ endsHeld: true }));
  deepStrictEqual(words(silent.handlePass(sight({ endsHeld: true, listening: "no" }))), [
    "detach app-died",
  ]);
});

Deno.test("a listener that closes last is not believed at once, of a server that others start", () => {
  const recovery = live(false);
  const held = (nowMs: number) =>
    recovery.handlePass(sight({ endsHeld: true, nowMs, look: () => "unknown" }));
  deepStrictEqual(held(2000), []);
  deepStrictEqual(words(held(2000 + EXTERNAL_WAIT_MS)), ["probe"]);
});

Deno.test("a server that others start is looked at, and the next one awaited until it is gone", () => {
  const recovery = live(false);
  const pass = (fields: Partial<RecoverySight>) => words(recovery.handlePass(sight(fields)));
  deepStrictEqual(pass({ endsHeld: true }), ["probe"], "its process runs: no need to wait");
  deepStrictEqual(pass({ endsHeld: true, listening: "yes" }), ["confirm"]);
  deepStrictEqual(pass({ endsHeld: true, look: () => "exiting" }), ["detach app-exited"]);
  deepStrictEqual(pass({ look: () => "exiting" }), [], "what still listens is the dying one");
  deepStrictEqual(pass({ look: () => "gone" }), ["probe"]);
  deepStrictEqual(pass({ look: () => "gone", listening: "yes" }), ["replay"]);
});

Deno.test("a server that dies while it is replayed to is replaced; clients wait from the first end", () => {
  const recovery = live();
  deepStrictEqual(words(recovery.handleExit("SIGSEGV", 2000)), ["detach app-exited"]);
  recovery.handleStart();
  recovery.handlePass(sight({ nowMs: 2300 }));
  recovery.handlePass(sight({ nowMs: 2300, listening: "yes" }));
  deepStrictEqual(words(recovery.handleExit("SIGSEGV", 2400)), ["detach app-exited"]);
  strictEqual(recovery.sinceMs, 2000);
});

Deno.test("clients of a standby that takes over wait from then on, however long it had followed", () => {
  const recovery = new Recovery(true, 0);
  recovery.handlePromoted(5000);
  recovery.handleStart();
  recovery.handlePass(sight({ nowMs: 5100 }));
  recovery.handlePass(sight({ nowMs: 5200, listening: "yes" }));
  deepStrictEqual(recovery.handlePass(sight({ nowMs: 5300 })), [
    { kind: "recovered", reason: "start", tookMs: 300, waitedMs: 200 },
  ]);
});

Deno.test("a restart waits for the next start, whatever the old server still says", () => {
  const recovery = live();
  deepStrictEqual(words(recovery.handleRestart(2000)), ["detach restart"]);
  deepStrictEqual(recovery.handlePass(sight({ endsHeld: true, listening: "yes" })), []);
  deepStrictEqual(recovery.handleExit("status 0", 2100), []);
  recovery.handleStart();
  deepStrictEqual(words(recovery.handlePass(sight({ nowMs: 2200 }))), ["probe"]);
});

Deno.test("a server that hangs is left at once, and the next one awaited", () => {
  const recovery = live();
  deepStrictEqual(recovery.handleHang("it was stopped", 2000), [
    { kind: "detach", reason: "app-hangs", seen: "it was stopped" },
  ]);
  deepStrictEqual(words(recovery.handlePass(sight({ nowMs: 2001, listening: "yes" }))), []);
  deepStrictEqual(recovery.handleExit("SIGKILL", 2002), []);
  recovery.handleStart();
  deepStrictEqual(words(recovery.handlePass(sight({ nowMs: 2300 }))), ["probe"]);
  recovery.handlePass(sight({ nowMs: 2400, listening: "yes" }));
  deepStrictEqual(recovery.handlePass(sight({ nowMs: 2500 })), [
    { kind: "recovered", reason: "app-hangs", tookMs: 500, waitedMs: 400 },
  ]);
});

Deno.test("lifeInStat() takes a thread that SIGKILL waits for as one that is exiting", () => {
  const stat = (flags: number, pending: number) =>
    `7 (a) b) S 1 7 7 0 -1 ${flags} ${"0 ".repeat(21)}${pending} 0 4096 0 0 0 0 17 1 0 0`;
  strictEqual(lifeInStat(stat(0x400000, 0)), "runs");
  strictEqual(lifeInStat(stat(0x400000, 1 << (15 - 1))), "runs", "SIGTERM may be caught");
  strictEqual(lifeInStat(stat(0x400000, 1 << (9 - 1))), "exiting");
  strictEqual(lifeInStat(stat(0x400004, 0)), "exiting");
});

Deno.test("isGroupAlive() is so until the last process of a group has ended", async () => {
  const script = "sleep 30 & echo $!; read -r word";
  const leader = new Deno.Command("sh", {
    args: ["-c", script],
    detached: true,
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const { value } = await leader.stdout.getReader().read();
  const member = Number(new TextDecoder().decode(value));
  leader.kill("SIGKILL");
  await leader.status;
  strictEqual(isGroupAlive(leader.pid), true);
  Deno.kill(member, "SIGKILL");
  const deadlineMs = performance.now() + 10_000;
  while (isGroupAlive(leader.pid) && performance.now() < deadlineMs) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  strictEqual(isGroupAlive(leader.pid), false);
  await leader.stdin.close();
});

Deno.test("lifeOf() tells a process that runs from one that is a zombie or gone", async () => {
  strictEqual(lifeOf(Deno.pid), "runs");
  // Its shell becomes the long sleep, which reads the end of no child: the short one stays a zombie.
  const script = "sleep 0.3 & echo $!; exec sleep 30";
  const parent = new Deno.Command("sh", { args: ["-c", script], stdout: "piped" }).spawn();
  const { value } = await parent.stdout.getReader().read();
  const zombie = Number(new TextDecoder().decode(value));
  const deadlineMs = performance.now() + 10_000;
  while (lifeOf(zombie) !== "gone" && performance.now() < deadlineMs) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  strictEqual(lifeOf(zombie), "gone");
  match(Deno.readTextFileSync(`/proc/${zombie}/stat`), /\) Z /);
  parent.kill("SIGKILL");
  await parent.status;
  strictEqual(lifeOf(parent.pid), "gone");
});
