/**
 * judge_test.ts - which failure is it, and what follows
 */
import { deepStrictEqual, strictEqual } from "node:assert/strict";
import {
  type CoreFinding,
  handOverReason,
  Judge,
  type JudgeEffect,
  REPEAT_MS,
  RETRY_MS,
  type Situation,
} from "../../runtime/protocol/judge.ts";

const READY: Situation = {
  primary: true,
  peer: "b",
  peerWorks: true,
  canHandOver: true,
  nowMs: 1000,
};
const ALONE: Situation = {
  primary: true,
  peer: "b",
  peerWorks: true,
  canHandOver: false,
  nowMs: 1000,
};
const STANDBY: Situation = {
  primary: false,
  peer: "b",
  peerWorks: true,
  canHandOver: false,
  nowMs: 1000,
};

function found(fields: Partial<CoreFinding> = {}): CoreFinding {
  return {
    kind: "oursEnded",
    clientPort: 40000,
    ours: 100,
    theirs: 200,
    waitedMs: 12,
    ...fields,
  };
}

/** Each effect in a word or two; judgements with node, verdict and act. */
function words(effects: JudgeEffect[]): string[] {
  return effects.map((effect) => {
    if (effect.kind === "handOver") return `handOver ${effect.reason}`;
    if (effect.kind === "releaseEnds") return effect.kind;
    const { node, act } = effect.evidence;
    return `${node} ${effect.judgement} ${act}`;
  });
}

/** What the first judgement rests on. */
function seen([effect]: JudgeEffect[]): string {
  return effect.kind === "judgement" ? effect.evidence.seen : "";
}

Deno.test("our server's death hands over once, with the evidence", () => {
  const judge = new Judge("a");
  const effects = judge.handleFindings([found(), found({ clientPort: 40001 })], READY);
  deepStrictEqual(words(effects), ["a app-died hand-over", "handOver app-died"]);
  strictEqual(
    seen(effects),
    "connection from port 40000: ended at octet 100, while b's server is at octet 200",
  );
  // Other evidence for the same death is told, and hands nothing over a second time.
  deepStrictEqual(words(judge.handleAppExit("SIGKILL", READY)), ["a app-exited hand-over"]);
  judge.handleHandedOver();
  deepStrictEqual(words(judge.handleAppExit("SIGKILL", STANDBY)), ["a app-exited none"]);
});

Deno.test("an end that the other did not follow says how long was waited", () => {
  const judge = new Judge("a");
  strictEqual(
    seen(judge.handleFindings([found({ theirs: 100, waitedMs: 2000 })], READY)),
    "connection from port 40000: ended at octet 100, while b's server had not after 2000 ms",
  );
  const theirs = found({ kind: "theirsEnded", ours: 200, waitedMs: 2000 });
  strictEqual(
    seen(judge.handleFindings([theirs], READY)),
    "connection from port 40000: ended at octet 200, while a's server had not after 2000 ms",
  );
});

Deno.test("a refusal hands over under its own name", () => {
  const judge = new Judge("a");
  deepStrictEqual(words(judge.handleFindings([found({ kind: "oursRefuses" })], READY)), [
    "a app-refuses hand-over",
    "handOver app-refuses",
  ]);
});

Deno.test("the standby's server costs its connections their protection, and no more", () => {
  const judge = new Judge("a");
  const finding = found({ kind: "theirsEnded", ours: 300, theirs: 200 });
  const effects = judge.handleFindings([finding], READY);
  deepStrictEqual(words(effects), ["b app-died unprotect"]);
  strictEqual(
    seen(effects),
    "connection from port 40000: ended at octet 200, while a's server is at octet 300",
  );
  deepStrictEqual(words(judge.handleAppExit("status 1", STANDBY)), ["a app-exited none"]);
  deepStrictEqual(judge.handleFindings([found({ kind: "none" })], READY), []);
});

Deno.test("outputs that differ cost their connection its protection, or at a takeover its life", () => {
  const judge = new Judge("a");
  const finding = found({ kind: "diverged", ours: 700, theirs: 512 });
  const effects = judge.handleFindings([finding, finding], READY);
  deepStrictEqual(words(effects), ["b diverged unprotect"]);
  strictEqual(
    seen(effects),
    "connection from port 40000: its server and a's wrote the same up to octet 512, and not up to " +
      "octet 700",
  );
  deepStrictEqual(
    words(judge.handleFindings([{ ...finding, kind: "divergedReset" }], ALONE)),
    ["b diverged reset"],
  );
});

Deno.test("without anybody to take it, clients are told of the end", () => {
  const judge = new Judge("a");
  deepStrictEqual(words(judge.handleFindings([found()], ALONE)), [
    "a app-died none",
    "releaseEnds",
  ]);
  deepStrictEqual(judge.handleHandOverFailed(1000), [], "no hand-over was under way");
});

Deno.test("a hand-over that fails lets the ends go and is tried again later", () => {
  const judge = new Judge("a");
  judge.handleFindings([found()], READY);
  deepStrictEqual(judge.handleHandOverFailed(4000), [{ kind: "releaseEnds" }]);
  const soon = { ...READY, nowMs: 4000 + RETRY_MS - 1 };
  deepStrictEqual(words(judge.handleFindings([found()], soon)), ["a app-died none", "releaseEnds"]);
  const later = { ...READY, nowMs: 4000 + RETRY_MS };
  deepStrictEqual(words(judge.handleFindings([found()], later)), [
    "a app-died hand-over",
    "handOver app-died",
  ]);
});

Deno.test("a judgement is said again only after a pause", () => {
  const judge = new Judge("a");
  const finding = found({ kind: "theirsEnded" });
  const said = [0, REPEAT_MS, 2 * REPEAT_MS, 3 * REPEAT_MS + 1].map((nowMs) =>
    judge.handleFindings([finding], { ...READY, nowMs }).length
  );
  deepStrictEqual(said, [1, 0, 0, 1]);
});

Deno.test("handOverReason() takes what it knows and calls the rest a switch", () => {
  strictEqual(handOverReason("app-exited"), "app-exited");
  strictEqual(handOverReason("switch"), "switch");
  strictEqual(handOverReason("a later version's"), "switch");
});

Deno.test("a server that stands still is left, or costs connections their protection", () => {
  const judge = new Judge("a");
  const ours = found({ kind: "oursStopsWriting", ours: 100, theirs: 350, waitedMs: 2001 });
  const effects = judge.handleFindings([ours, ours], READY);
  deepStrictEqual(words(effects), ["a app-hangs hand-over", "handOver app-hangs"]);
  strictEqual(
    seen(effects),
    "connection from port 40000: stopped writing at octet 100 for 2001 ms, while b's server is " +
      "250 octets ahead",
  );
  // On a standby its core has given the connection up already.
  const standby = new Judge("b");
  const reading = found({ kind: "oursStopsReading", ours: 100, theirs: 350, waitedMs: 2001 });
  deepStrictEqual(words(standby.handleFindings([reading], STANDBY)), ["b app-hangs unprotect"]);
  // And the primary has it from there.
  const theirs = found({ kind: "theirsStopsReading", ours: 350, theirs: 100, waitedMs: 2001 });
  const told = new Judge("a").handleFindings([theirs], READY);
  deepStrictEqual(words(told), ["b app-hangs unprotect"]);
  strictEqual(
    seen(told),
    "connection from port 40000: stopped reading at octet 100 for 2001 ms, while a's server is " +
      "250 octets ahead",
  );
});

Deno.test("an end that a hanging server did not follow is let go, and proves nothing", () => {
  const hanging: Situation = { ...ALONE, peerWorks: false };
  const alone = found({ ours: 100, theirs: 100 });
  deepStrictEqual(words(new Judge("a").handleFindings([alone], hanging)), ["releaseEnds"]);
  const further = found({ ours: 100, theirs: 101 });
  deepStrictEqual(words(new Judge("a").handleFindings([further], hanging)), [
    "a app-died none",
    "releaseEnds",
  ]);
});

Deno.test("a dead card hands over when somebody can take the service, and lets no ends go", () => {
  const judge = new Judge("a");
  const down = (situation: Situation) => words(judge.handleCardDown("eth0: no carrier", situation));
  deepStrictEqual(down(ALONE), ["a card-down none"]);
  deepStrictEqual(down({ ...ALONE, nowMs: 1020 }), [], "said already");
  deepStrictEqual(down(READY), ["a card-down hand-over", "handOver card-down"]);
  deepStrictEqual(down(READY), [], "under way");
  deepStrictEqual(judge.handleHandOverFailed(1100), []);
  deepStrictEqual(down({ ...READY, nowMs: 1200 }), ["a card-down none"], "not again at once");
  deepStrictEqual(down({ ...READY, nowMs: 1100 + RETRY_MS }), [
    "a card-down hand-over",
    "handOver card-down",
  ]);
  judge.handleHandedOver();
  deepStrictEqual(down({ ...STANDBY, nowMs: 3000 }), ["a card-down none"]);
  strictEqual(handOverReason("card-down"), "card-down");
});

Deno.test("a server that hangs by the word of its health command is handed over, time and again", () => {
  const judge = new Judge("a");
  const first = judge.handleHang("its health command failed", READY);
  deepStrictEqual(words(first), ["a app-hangs hand-over", "handOver app-hangs"]);
  strictEqual(seen(first), "its health command failed");
  judge.handleHandOverFailed(READY.nowMs);
  const later = { ...READY, nowMs: READY.nowMs + RETRY_MS };
  deepStrictEqual(words(judge.handleHang("again", later)).at(-1), "handOver app-hangs");
  const standby = new Judge("b");
  deepStrictEqual(words(standby.handleHang("x", STANDBY)), ["b app-hangs none"]);
});

Deno.test("a server that failed where whole logs are kept is left for one that is fed", () => {
  const judge = new Judge("a");
  const effects = judge.handleFailure("app-died", "nobody listens", READY);
  deepStrictEqual(words(effects), ["a app-died hand-over", "handOver app-died"]);
  strictEqual(seen(effects), "nobody listens");
  deepStrictEqual(judge.handleHandOverFailed(1000).map(({ kind }) => kind), ["releaseEnds"]);
});

Deno.test("a standby whose server differs, and that keeps whole logs, goes on with the log", () => {
  const judge = new Judge("a");
  const effects = judge.handleFindings([found({ kind: "divergedFromLog" })], READY);
  deepStrictEqual(words(effects), ["b diverged log"]);
});
