/**
 * divergence_test.ts - servers whose answers differ, through faults (P5)
 *
 *   client: 12 connections ---- switch ---- host a: token server
 *                                    \----- host b: token server     each answer is drawn
 *
 * Claims: under `reset` and `unprotect` no client ever reads octets of two answers or of two servers as
 * one, whatever dies at whatever moment; under `reset` clients are reset at once, under `unprotect` some
 * wait in vain; under `ignore` mixtures do reach them, so the check can fail. What differs is listed,
 * counted and judged with its evidence. nginx, whose answers differ in `Date` around a second's change,
 * is never taken for such a server, and its bodies are whole. With `determinism = "faketime"` servers that
 * draw their answers draw the same: clients do not notice faults, nor in log mode a server that is started
 * again; nginx writes the same time of day into its bodies.
 */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { netTest, type NetTestContext, repetitions, sleep, until } from "./conditions.ts";
import { type Site, withSite } from "./harness.ts";
import { nginx } from "./nginx.ts";
import type { TestProcess } from "./process.ts";
import type { TokenResult } from "./token_client.ts";

const CONNECTIONS = 12;
/** How long clients ask before the fault at most, and after it, milliseconds. */
const BEFORE_MS = 1500;
const AFTER_MS = 1500;
const RESULT_TIMEOUT_MS = 20_000;

type Fault = "crash" | "server" | "switch";
const FAULTS: readonly Fault[] = ["crash", "server", "switch"];

function script(name: string): string {
  return new URL(name, import.meta.url).pathname;
}

const PYTHON_SERVER = ["python3", script("./token_server.py"), "80"];
const TOKEN_SERVER = [Deno.execPath(), "run", "-A", script("./token_server.ts"), "80"];

async function startClient(site: Site): Promise<TestProcess> {
  const args = ["run", "-A", script("./token_client.ts"), site.address, "80", `${CONNECTIONS}`];
  const client = site.startInClient(Deno.execPath(), args, { input: true });
  await client.waitForOutput("client ready", 15_000);
  await client.write("go\n");
  return client;
}

async function resultOf(client: TestProcess): Promise<TokenResult> {
  await client.closeInput();
  await client.mustSucceed(RESULT_TIMEOUT_MS);
  return JSON.parse(client.output().trim().split("\n").at(-1)!) as TokenResult;
}

/** One fault under clients that ask; the site is whole again afterwards. */
async function askThroughFault(
  site: Site,
  { fault, momentMs }: { fault: Fault; momentMs: number },
): Promise<TokenResult> {
  const client = await startClient(site);
  const primary = await site.primary();
  await sleep(momentMs);
  if (fault === "crash") await site.crash(primary);
  else if (fault === "server") await site.signalServer(primary, "SIGKILL");
  else await site.requestSwitch(primary);
  await sleep(AFTER_MS);
  const result = await resultOf(client);
  if (fault === "crash") await site.revive(primary);
  await site.waitProtected();
  return result;
}

const NOTHING: TokenResult = {
  answers: 0,
  mixtures: 0,
  resets: 0,
  earlyEnds: 0,
  stuck: 0,
  refused: 0,
};

/** Rounds of faults at random moments under one policy; what all clients saw together. */
async function askThroughFaults(
  context: NetTestContext,
  { divergence, promised }: { divergence: string; promised: number },
): Promise<TokenResult> {
  const sum = { ...NOTHING };
  const run = { a: TOKEN_SERVER, b: TOKEN_SERVER };
  await withSite(context, { run, service: { divergence } }, async (site) => {
    await site.waitProtected();
    if (divergence !== "ignore") await checkListed(site, divergence);
    for (let round = 0; round < repetitions(promised); round++) {
      const fault = FAULTS[round % FAULTS.length];
      const momentMs = Math.round(context.random.between(0, BEFORE_MS));
      const result = await askThroughFault(site, { fault, momentMs });
      console.log(`${fault} after ${momentMs} ms: ${JSON.stringify(result)}`);
      for (const key of Object.keys(sum) as (keyof TokenResult)[]) sum[key] += result[key];
    }
  });
  return sum;
}

/** A connection that has diverged is listed with its reason, counted, and judged with its evidence. */
async function checkListed(site: Site, divergence: string): Promise<void> {
  const client = await startClient(site);
  const primary = await site.primary();
  const listed = await until(
    async () =>
      (await site.connections(primary)).find(({ reason }) => /differently/.test(reason ?? "")),
    { what: "a connection to be listed as different", timeoutMs: 10_000 },
  );
  assert.equal(listed.protection, "unprotected");
  const { judgements, counters, protected: isProtected } = await site.service(primary);
  assert.ok(counters.diverged > 0);
  assert.ok(isProtected, "other connections would be");
  const judged = judgements.find(({ judgement }) => judgement === "diverged");
  assert.equal(judged?.evidence.act, "unprotect");
  assert.match(
    String(judged.evidence.seen),
    /wrote the same up to octet \d+, and not up to octet \d+/,
  );
  const result = await resultOf(client);
  // Without a fault nobody notices.
  assert.ok(result.answers > 0, divergence);
  assert.deepEqual({ ...result, answers: 0 }, NOTHING);
}

netTest(
  "reset: clients of servers that differ read whole answers or are reset",
  [],
  async (context) => {
    const seen = await askThroughFaults(context, { divergence: "reset", promised: 60 });
    assert.equal(seen.mixtures, 0);
    assert.ok(seen.answers > 0 && seen.resets > 0, JSON.stringify(seen));
  },
);

netTest(
  "unprotect: clients of servers that differ read no mixtures either",
  [],
  async (context) => {
    const seen = await askThroughFaults(context, { divergence: "unprotect", promised: 30 });
    assert.equal(seen.mixtures, 0);
    assert.ok(seen.answers > 0 && seen.resets + seen.stuck > 0, JSON.stringify(seen));
  },
);

netTest("ignore: mixtures reach the clients of servers that differ", [], async (context) => {
  const seen = await askThroughFaults(context, { divergence: "ignore", promised: 30 });
  assert.ok(seen.mixtures > 0, JSON.stringify(seen));
});

/** Octets of the file that is asked for. */
const SMALL = 700;
const KEEPERS = 10;
/** Some seconds change before the fault and some after it. */
const SPAN_MS = 7000;

/** Asks for a small file over one kept connection; counts answers, and returns the dates they name. */
async function keepAsking(
  site: Site,
  { hash, untilMs }: { hash: string; untilMs: number },
): Promise<{ answers: number; dates: Set<string> }> {
  const program = `
    import { Dialogue } from ${JSON.stringify(import.meta.resolve("./dialogue.ts"))};
    import { createHash } from "node:crypto";
    const dialogue = await Dialogue.connect("keeper", { address: "${site.address}", port: 80 });
    const dates = new Set();
    let answers = 0;
    while (Date.now() < ${untilMs}) {
      await dialogue.write(new TextEncoder().encode("GET /small HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"));
      let length = 0;
      for (let line; (line = (await dialogue.readLine()).trim()) !== "";) {
        const [name, value] = line.split(/: */, 2);
        if (name === "Content-Length") length = Number(value);
        if (name === "Date") dates.add(line);
      }
      const digest = createHash("sha256");
      await dialogue.readExactly(length, (octets) => digest.update(octets));
      if (digest.digest("hex") !== "${hash}") throw new Error("the body differs");
      answers++;
      await new Promise((resolve) => setTimeout(resolve, 10 + Math.random() * 10));
    }
    console.log(JSON.stringify({ answers, dates: [...dates] }));`;
  const keeper = site.startInClient(Deno.execPath(), ["eval", program]);
  await keeper.mustSucceed(SPAN_MS + 60_000);
  const { answers, dates } = JSON.parse(keeper.output().trim().split("\n").at(-1)!);
  return { answers, dates: new Set(dates) };
}

netTest(
  "nginx at the turn of a second is not different from itself",
  ["nginx"],
  async (context) => {
    const { directory, random } = context;
    await Deno.mkdir(`${directory}/files`);
    const content = Uint8Array.from({ length: SMALL }, (_, i) => i * 7);
    await Deno.writeFile(`${directory}/files/small`, content);
    const hash = createHash("sha256").update(content).digest("hex");
    const run = { a: await nginx("a", directory), b: await nginx("b", directory) };
    await withSite(context, { run }, async (site) => {
      for (let round = 0; round < repetitions(20); round++) {
        await site.waitProtected();
        const primary = await site.primary();
        const untilMs = Date.now() + SPAN_MS;
        const keepers = Array.from({ length: KEEPERS }, () => keepAsking(site, { hash, untilMs }));
        await sleep(random.between(2500, 4500));
        const before = (await site.service(primary)).counters;
        assert.equal(before.diverged, 0);
        const hot = (await site.connections(primary)).filter(({ protection }) =>
          protection === "hot"
        );
        assert.equal(hot.length, KEEPERS);
        await site.crash(primary);
        const all = await Promise.all(keepers);
        assert.ok(
          all.every(({ answers }) => answers > 20),
          JSON.stringify(all.map((k) => k.answers)),
        );
        assert.ok(new Set(all.flatMap(({ dates }) => [...dates])).size > 3);
        const { counters, judgements } = await site.service(site.other(primary));
        assert.equal(counters.diverged, 0);
        assert.ok(!judgements.some(({ judgement }) => judgement === "diverged"));
        await site.revive(primary);
      }
    });
  },
);

const FAKETIME = { determinism: "faketime" };

netTest(
  "faketime: servers that draw their answers draw the same, and clients notice nothing",
  ["python3", "faketime"],
  async (context) => {
    const run = { a: PYTHON_SERVER, b: PYTHON_SERVER };
    await withSite(context, { run }, async (site) => {
      await site.waitProtected();
      await checkListed(site, "reset");
    });
    await withSite(context, { run, service: FAKETIME }, async (site) => {
      await site.waitProtected();
      for (let round = 0; round < repetitions(30); round++) {
        const fault = FAULTS[round % FAULTS.length];
        const momentMs = Math.round(context.random.between(0, BEFORE_MS));
        const result = await askThroughFault(site, { fault, momentMs });
        console.log(`${fault} after ${momentMs} ms: ${JSON.stringify(result)}`);
        assert.ok(result.answers > 0);
        assert.deepEqual({ ...result, answers: 0 }, NOTHING);
        const { counters } = await site.service(await site.primary());
        assert.equal(counters.diverged, 0);
      }
    });
  },
);

netTest(
  "faketime: in log mode a server started again draws what the dead one drew",
  ["python3", "faketime"],
  async (context) => {
    const run = { a: PYTHON_SERVER, b: PYTHON_SERVER };
    const service = { ...FAKETIME, mode: "log" };
    await withSite(context, { run, service, alone: true, hosts: ["a"] }, async (site) => {
      await site.waitPrimary("a");
      for (let round = 0; round < repetitions(20); round++) {
        const client = await startClient(site);
        await sleep(context.random.between(0, BEFORE_MS));
        await site.signalServer("a", "SIGKILL");
        await sleep(AFTER_MS);
        const result = await resultOf(client);
        console.log(JSON.stringify(result));
        assert.ok(result.answers > 0);
        assert.deepEqual({ ...result, answers: 0 }, NOTHING);
        assert.equal((await site.service("a")).app.restarts, round + 1);
      }
    });
  },
);

netTest(
  "faketime: nginx writes the clock base into its bodies, wherever it runs",
  ["nginx", "faketime", "curl"],
  async (context) => {
    const { directory } = context;
    await Deno.mkdir(`${directory}/files`);
    const place = 'location = /now { return 200 "$time_iso8601 $msec"; }';
    const run = {
      a: await nginx("a", directory, place),
      b: await nginx("b", directory, place),
    };
    const base = "2031-02-03T04:05:06";
    const service = { ...FAKETIME, clock_base: `${base}Z` };
    await withSite(context, { run, service }, async (site) => {
      await site.waitProtected();
      const read = async () => {
        const client = site.startInClient("curl", ["-sS", "--max-time", "20", site.url("/now")]);
        await client.mustSucceed(RESULT_TIMEOUT_MS);
        return client.output().trim();
      };
      const before = await read();
      assert.match(before, new RegExp(` ${Date.parse(`${base}Z`) / 1000}\\.\\d{3}$`));
      await site.crash(await site.primary());
      assert.equal(await read(), before);
    });
  },
);
