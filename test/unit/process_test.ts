/** process_test.ts - children of a test: their output, their end and their deadlines. */

import assert from "node:assert/strict";
import { runProcess, startProcess } from "../net/process.ts";

Deno.test("runProcess() returns what was printed on both streams", async () => {
  assert.equal(await runProcess("sh", ["-c", "echo out; sleep 0.1; echo err >&2"]), "out\nerr\n");
});

Deno.test("runProcess() quotes the output of a program that fails", async () => {
  await assert.rejects(runProcess("sh", ["-c", "echo why; exit 3"]), /status 3; it printed:\nwhy/);
});

Deno.test("waitForExit() kills a process that does not end", async () => {
  const process = startProcess("sleep", ["60"]);
  await assert.rejects(process.waitForExit(50), /did not end within 50 ms; it printed nothing/);
  assert.ok(process.hasEnded);
  assert.equal((await process.exited).signal, "SIGKILL");
});

Deno.test("waitForOutput() tells an end from a lack of time", async () => {
  const process = startProcess("sh", ["-c", "echo one; read line; echo $line"], { input: true });
  await process.waitForOutput("one", 5000);
  await assert.rejects(process.waitForOutput("two", 50), /'two' from sh .*: 50 ms went by/);
  await process.write("two\n");
  await process.waitForOutput("two", 5000);
  await process.closeInput();
  await process.mustSucceed(5000);
  await assert.rejects(process.waitForOutput("three", 5000), /it ended/);
});

Deno.test("outputHash() hashes output that is not kept", async () => {
  const process = startProcess("sh", ["-c", "printf abc; echo note >&2"], { hashOutput: true });
  await process.mustSucceed(5000);
  assert.deepEqual(process.outputHash(), {
    sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    octets: 3,
  });
  assert.equal(process.output(), "note\n");
});
