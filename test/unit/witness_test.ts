/**
 * witness_test.ts - a witness grants each epoch once, whatever is asked and whenever it crashes
 *
 * The store is opened on real files: cut off after every octet, with a damaged line, left behind by a
 * crash in the middle of compaction. The server is asked over real sockets, by many at once and by
 * those who send nonsense; and a real witness process is killed while it grants.
 */
import { deepStrictEqual, ok, rejects, strictEqual, throws } from "node:assert/strict";
import { connect } from "node:net";
import { WitnessClient } from "../../runtime/arbiter/witness_client.ts";
import { createLogger } from "../../runtime/log.ts";
import { holdfastCommand } from "../../runtime/lab/daemon_process.ts";
import type { Claim } from "../../runtime/protocol/register.ts";
import { LINE_MAX, startWitness, type Witness } from "../../runtime/witness/server.ts";
import { RegisterStore } from "../../runtime/witness/store.ts";
import { answerTo } from "./patience.ts";

const log = createLogger({ format: "text", level: "error" });

async function withDirectory(body: (directory: string) => Promise<void> | void): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "holdfast-witness-" });
  try {
    await body(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

async function withWitness(
  body: (witness: Witness, path: string) => Promise<void>,
): Promise<void> {
  await withDirectory(async (directory) => {
    const path = `${directory}/state`;
    const store = RegisterStore.open(path);
    const witness = await startWitness(store, { address: "127.0.0.1", port: 0, log });
    try {
      await body(witness, path);
    } finally {
      await witness.close();
      store.close();
    }
  });
}

function claim(expect: number, owner = "a", token = "1"): Claim {
  return { expect, voids: [], epoch: expect + 1, owner, token };
}

/** The log of some claims on two registers. */
function sampleLog(directory: string): { bytes: Uint8Array; ends: number[] } {
  const path = `${directory}/sample`;
  const store = RegisterStore.open(path);
  const ends = [Deno.statSync(path).size];
  for (let i = 0; i < 6; i++) {
    ok(store.claim(i % 2 === 0 ? "c/web" : "c/db", claim(Math.floor(i / 2))).granted);
    ends.push(Deno.statSync(path).size);
  }
  store.close();
  return { bytes: Deno.readFileSync(path), ends };
}

Deno.test("RegisterStore keeps what it granted over a crash at any octet of a write", async () => {
  await withDirectory((directory) => {
    const { bytes, ends } = sampleLog(directory);
    const path = `${directory}/cut`;
    for (let length = 0; length <= bytes.length; length++) {
      Deno.writeFileSync(path, bytes.subarray(0, length));
      const store = RegisterStore.open(path);
      const granted = ends.filter((end) => end <= length).length - 1;
      const epochs = [store.read("c/web")?.epoch ?? 0, store.read("c/db")?.epoch ?? 0];
      deepStrictEqual(
        epochs,
        [Math.ceil(granted / 2), Math.floor(granted / 2)].map((n) => Math.max(0, n)),
      );
      // What follows a torn line must be found again too.
      ok(store.claim("c/web", claim(epochs[0], "b")).granted);
      store.close();
      const again = RegisterStore.open(path);
      deepStrictEqual(again.read("c/web"), {
        epoch: epochs[0] + 1,
        owner: "b",
        token: "1",
        follows: epochs[0],
      });
      again.close();
    }
  });
});

Deno.test("RegisterStore refuses a log that is damaged before its end, and what is none", async () => {
  await withDirectory((directory) => {
    const { bytes, ends } = sampleLog(directory);
    const path = `${directory}/damaged`;
    // Without its end the last line but one and the last are one damaged line, as a torn write is.
    for (let at = 0; at < ends[ends.length - 2] - 1; at++) {
      const damaged = bytes.slice();
      damaged[at] ^= 1;
      Deno.writeFileSync(path, damaged);
      throws(() => RegisterStore.open(path), { name: "StoreError" }, `octet ${at}`);
    }
  });
});

Deno.test("RegisterStore is open in one place at a time", async () => {
  await withDirectory((directory) => {
    const store = RegisterStore.open(`${directory}/state`);
    throws(() => RegisterStore.open(`${directory}/state`), /another process/);
    store.close();
    RegisterStore.open(`${directory}/state`).close();
  });
});

Deno.test("RegisterStore compacts, and a crash while it does loses nothing", async () => {
  await withDirectory((directory) => {
    const path = `${directory}/state`;
    const store = RegisterStore.open(path);
    const token = "t".repeat(64);
    const keys = Array.from({ length: 40 }, (_, i) => `${"k".repeat(100)}/${i}`);
    let epoch = 0;
    let largest = 0;
    let compactions = 0;
    while (compactions < 1) {
      for (const key of keys) ok(store.claim(key, claim(epoch, "a", token)).granted);
      epoch++;
      const { size } = Deno.statSync(path);
      if (size < largest) {
        compactions++;
        largest = 0;
      } else largest = size;
      ok(size < 2 << 20, `${size} octets`);
    }
    store.close();
    // A crash before the rename leaves the new file beside the old one.
    Deno.writeTextFileSync(`${path}.new`, "holdfast-witness 1\nhalf a li");
    const again = RegisterStore.open(path);
    strictEqual(again.size, keys.length);
    for (const key of keys) strictEqual(again.read(key)?.epoch, epoch);
    again.close();
  });
});

Deno.test("RegisterStore grants nothing after its disk has failed", async () => {
  await withDirectory((directory) => {
    // /dev/full: every write fails with ENOSPC.
    Deno.symlinkSync("/dev/full", `${directory}/full`);
    throws(() => RegisterStore.open(`${directory}/full`), /No space|os error 28|Invalid/);
  });
});

Deno.test("WitnessClient: of many claims for an epoch at once one is granted", async () => {
  await withWitness(async ({ port }) => {
    const clients = Array.from(
      { length: 20 },
      () => new WitnessClient(`127.0.0.1:${port}`, "c"),
    );
    for (let epoch = 0; epoch < 10; epoch++) {
      const answers = await Promise.all(
        clients.map((client, i) => answerTo(() => client.claim("web", claim(epoch, `n${i}`)))),
      );
      const winners = answers.flatMap(({ granted }, i) => granted ? [`n${i}`] : []);
      strictEqual(winners.length, 1);
      for (const { value } of answers) deepStrictEqual(value?.owner, winners[0]);
    }
    const first = clients[0];
    const value = await answerTo(() => first.read("web"));
    strictEqual(value.epoch, 10);
    // The same claim again is granted again; another life's is not.
    const again = { ...claim(9, value.owner), token: value.token };
    ok((await answerTo(() => first.claim("web", again))).granted);
    ok(!(await answerTo(() => first.claim("web", { ...again, token: "2" }))).granted);
    strictEqual(first.reachable, true);
    for (const client of clients) client.close();
  });
});

Deno.test("WitnessClient: services and clusters do not touch each other", async () => {
  await withWitness(async ({ port }) => {
    const clusters = ["x", "y", "z"].map((name) => new WitnessClient(`127.0.0.1:${port}`, name));
    const services = Array.from({ length: 60 }, (_, i) => `s${i}`);
    for (const [n, cluster] of clusters.entries()) {
      for (const [i, service] of services.entries()) {
        if (i % (n + 1) !== 0) continue;
        ok((await answerTo(() => cluster.claim(service, claim(n)))).granted);
      }
    }
    for (const [n, cluster] of clusters.entries()) {
      for (const [i, service] of services.entries()) {
        const epoch = await answerTo(async () => (await cluster.read(service))?.epoch ?? 0);
        strictEqual(epoch, i % (n + 1) === 0 ? n + 1 : 0);
      }
      cluster.close();
    }
  });
});

Deno.test("WitnessClient gives up in time, and asks a witness that has come back", async () => {
  await withDirectory(async (directory) => {
    const open = () => RegisterStore.open(`${directory}/state`);
    let store = open();
    let witness = await startWitness(store, { address: "127.0.0.1", port: 0, log });
    const { port } = witness;
    const client = new WitnessClient(`127.0.0.1:${port}`, "c");
    ok((await answerTo(() => client.claim("web", claim(0)))).granted);
    await witness.close();
    store.close();
    await rejects(client.claim("web", claim(1)), /no answer from the witness/);
    strictEqual(client.reachable, false);
    store = open();
    witness = await startWitness(store, { address: "127.0.0.1", port, log });
    ok((await answerTo(() => client.claim("web", claim(1)))).granted);
    client.close();
    await witness.close();
    store.close();
  });
});

Deno.test("a witness refuses what is no question, and closes the connection", async () => {
  await withWitness(async ({ port }) => {
    const good = {
      id: 1,
      op: "claim",
      key: "k",
      expect: 0,
      voids: [],
      epoch: 1,
      owner: "a",
      token: "t",
    };
    const bad: unknown[] = [
      "nonsense",
      "[]",
      "null",
      "{}",
      { ...good, id: -1 },
      { ...good, op: "drop" },
      { ...good, key: "" },
      { ...good, key: "k".repeat(161) },
      { ...good, key: "a b" },
      { ...good, expect: -1 },
      { ...good, epoch: 2 ** 32 },
      { ...good, epoch: 1.5 },
      { ...good, owner: "a\nb" },
      { ...good, token: 7 },
      { ...good, voids: "x" },
      { ...good, heirs: "b" },
      { ...good, heirs: [""] },
      { ...good, voids: [{}] },
      { ...good, voids: Array(10).fill({ token: "t", epoch: 1 }) },
      "x".repeat(LINE_MAX + 1),
    ];
    for (const question of bad) {
      const text = typeof question === "string" ? question : JSON.stringify(question);
      const answer = await exchange(port, `${text}\n${JSON.stringify(good)}\n`);
      ok(/"error":/.test(answer), `${text.slice(0, 60)} -> ${answer}`);
      strictEqual(answer.trim().split("\n").length, 1, "nothing after it is answered");
    }
    const client = new WitnessClient(`127.0.0.1:${port}`, "c");
    strictEqual(await client.read("web"), null, "and nothing was granted");
    client.close();
  });
});

Deno.test("a witness that is killed has kept every grant it told of", async () => {
  await withDirectory(async (directory) => {
    const path = `${directory}/state`;
    for (let round = 0; round < 3; round++) {
      const [program, ...args] = holdfastCommand(
        ["witness", "--listen", "127.0.0.1:0", "--state", path],
      );
      const child = new Deno.Command(program, { args, stderr: "piped", stdout: "null" }).spawn();
      const reader = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
      let said = "";
      let port: string | undefined;
      while ((port = /listen=127\.0\.0\.1:(\d+)/.exec(said)?.[1]) === undefined) {
        const { value, done } = await reader.read();
        ok(!done, `the witness ended: ${said}`);
        said += value;
      }
      const client = new WitnessClient(`127.0.0.1:${port}`, "c");
      const before = await answerTo(async () => (await client.read("web"))?.epoch ?? 0);
      let told = before;
      ok((await answerTo(() => client.claim("web", claim(told)))).granted);
      told++;
      // After one is granted and, most likely, in the middle of another.
      const killer = setTimeout(() => child.kill("SIGKILL"), 50 * round);
      try {
        for (;;) {
          if ((await client.claim("web", claim(told))).granted) told++;
        }
      } catch {
        // It is gone, or busy for longer than a client waits.
      }
      await child.status;
      clearTimeout(killer);
      client.close();
      await reader.cancel();
      const store = RegisterStore.open(path);
      const kept = store.read("c/web")!.epoch;
      store.close();
      ok(kept === told || kept === told + 1, `told of ${told}, kept ${kept}`);
    }
  });
});

/** Sends text and returns all that comes until the other side closes. */
function exchange(port: number, text: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = connect(port, "127.0.0.1");
  let answer = "";
  socket.setTimeout(5000, () => socket.destroy(new Error("no end")));
  socket.on("data", (octets: Uint8Array) => answer += new TextDecoder().decode(octets));
  socket.on("error", reject);
  socket.on("close", () => resolve(answer));
  socket.write(text);
  return promise;
}
