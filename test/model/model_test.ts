/**
 * model_test.ts - the model of takeover holds, and each of its mutants is found
 *
 * Theory of operation
 * spin turns takeover.pml into a C program, gcc compiles it, and running it looks at the states: all
 * that the bounds of a check allow ("exhaustive": every one was visited), or, where those are too
 * many, as many as fit into bits of memory and the time allowed ("sampled": nothing is proven beyond
 * what was visited). Each check prints which it was and how many states that were. A mutant must end
 * at an assertion of its own rule, not merely fail.
 *
 * Where spin, gcc or timeout is missing, each of these tests is skipped, and counted as such.
 *
 * Limits: SAMPLE_S for a sampled check; mutants have MUTANT_S to be found.
 * Sources: spin(1); Holzmann 2003, "The SPIN Model Checker", chapters 9 (bitstate) and 19 (pan).
 */
import assert from "node:assert/strict";

/** How long a sampled check looks, seconds. */
const SAMPLE_S = 8;
/** How long a mutant may stay unfound, seconds: the slowest takes a fifth of it alone on a core. */
const MUTANT_S = 60;
/** How long an exhaustive check may take, seconds: five times what it takes alone on a core. */
const EXHAUSTIVE_S = 120;
const MODEL = new URL("takeover.pml", import.meta.url).pathname;

/** What the checker said. */
interface Outcome {
  /** States that were visited. */
  states: number;
  /** All of them were visited before the time was over. */
  isFinished: boolean;
  /** What was violated: the expression of an assertion; null for nothing. */
  violated: string | null;
}

async function call(command: string, args: string[], cwd: string): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(command, { args, cwd }).output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert.equal(code, 0, `${command} ${args.join(" ")} exits with ${code}: ${text.slice(-2000)}`);
  return text;
}

function isInstalled(program: string): boolean {
  try {
    return new Deno.Command(program, { args: ["--version"], stdout: "null", stderr: "null" })
      .outputSync().code >= 0;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Explores the model with `flags`, in `seconds` at most. */
async function explore(
  flags: string[],
  seconds: number,
  kind: "exhaustive" | "sampled",
): Promise<Outcome> {
  const directory = await Deno.makeTempDir({ prefix: "holdfast-model-" });
  try {
    await call("spin", ["-a", ...flags.map((flag) => `-D${flag}`), MODEL], directory);
    const storage = kind === "exhaustive" ? ["-DCOLLAPSE"] : ["-DBITSTATE"];
    await call(
      "gcc",
      ["-O1", "-w", "-DSAFETY", "-DNOCLAIM", ...storage, "-o", "pan", "pan.c"],
      directory,
    );
    const args = kind === "exhaustive" ? ["-m100000"] : ["-m20000", "-w27"];
    // SIGINT makes pan print what it has seen; timeout(1) kills it if it does not.
    const text = new TextDecoder().decode(
      (await new Deno.Command("timeout", {
        args: ["--signal=INT", "--kill-after=5", `${seconds}`, `${directory}/pan`, ...args],
        cwd: directory,
      }).output()).stdout,
    );
    const states = Number(/(\d+) states, stored/.exec(text)?.[1] ?? Number.NaN);
    assert.ok(states > 0, `pan told no number of states: ${text.slice(-2000)}`);
    assert.doesNotMatch(text, /max search depth too small/);
    return {
      states,
      isFinished: !/interrupted|Search not completed/.test(text),
      violated: /assertion violated\s+(.*) \(at depth/.exec(text)?.[1] ?? null,
    };
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

const ignore = !["spin", "gcc", "timeout"].every(isInstalled);
const SMALL = ["SWITCHES=0", "INPUTS=1"];

Deno.test({
  name: "model: pauses, partitions and a lost register, exhaustively",
  ignore,
  fn: async () => {
    const outcome = await explore([...SMALL, "EPOCHS=2", "CRASHES=0"], EXHAUSTIVE_S, "exhaustive");
    console.log(`exhaustive: ${outcome.states} states`);
    assert.equal(outcome.violated, null);
    assert.ok(outcome.isFinished, `not finished after ${EXHAUSTIVE_S} s`);
  },
});

const SAMPLES: [name: string, flags: string[]][] = [
  ["a crash and a switch", ["CRASHES=1", "SWITCHES=1", "INPUTS=2", "EPOCHS=4"]],
  ["a kernel that keeps the lease: not one segment is late", ["GATE", "CRASHES=1", "EPOCHS=3"]],
];

for (const [name, flags] of SAMPLES) {
  Deno.test({
    name: `model: ${name}, sampled`,
    ignore,
    fn: async () => {
      const { states, violated } = await explore(flags, SAMPLE_S, "sampled");
      console.log(`sampled: ${states} states in ${SAMPLE_S} s`);
      assert.equal(violated, null);
    },
  });
}

/** Parts of the assertions' expressions, as pan prints them. */
const TWO_SPEAK = "!(((role[(1-_pid)]==4)";
const LOST = "acknowledged<=log[_pid]";
const NEWER = "epoch[_pid]>=spoken";
const STATE_LEFT = "role[(1-_pid)]==0";

/** Mutants whose own assertion comes first only in the search with a third epoch. */
const DEEPER = new Set(["RELEASE_EARLY", "NO_DRAIN", "ACK_WITHOUT_LOG", "GRANT_LATE"]);

const MUTANTS: [flag: string, rule: string, violated: string][] = [
  ["CLAIM_FIRST", "claims before arbitration", TWO_SPEAK],
  ["RELEASE_EARLY", "releases before commit", LOST],
  ["NO_DRAIN", "adopts without draining", LOST],
  ["STALE_SPEAK", "speaks on a stale epoch after a pause", TWO_SPEAK],
  ["ACK_WITHOUT_LOG", "confirms without storing", LOST],
  ["LEASE_FROM_HEARING", "takes any beat for an answer to its own", TWO_SPEAK],
  ["LONG_LEASE", "has a lease longer than the standby waits", TWO_SPEAK],
  ["GRANT_LATE", "entitles a standby before it waits for it", TWO_SPEAK],
  ["GRANT_CONFIRMS", "takes a second grant for a confirmation", TWO_SPEAK],
  ["WON_SPEAKS", "speaks as soon as it has won, though the peer was heard again", TWO_SPEAK],
  ["JOIN_CLAIMS", "claims without state", STATE_LEFT],
  ["VOLATILE_EPOCH", "forgets its epoch in a crash", NEWER],
];

for (const [flag, rule, expected] of MUTANTS) {
  Deno.test({
    name: `model: a replica that ${rule} is found`,
    ignore,
    fn: async () => {
      const flags = [...SMALL, "CRASHES=1", `EPOCHS=${DEEPER.has(flag) ? 3 : 2}`, flag];
      const { violated } = await explore(flags, MUTANT_S, "sampled");
      assert.ok(violated?.includes(expected), `expected ${expected}, found ${violated}`);
    },
  });
}
