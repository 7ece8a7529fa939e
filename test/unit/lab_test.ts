/**
 * lab_test.ts - what the demo draws is what the client saw
 */

import assert from "node:assert/strict";
import { chartLines, formatRate, niceCeiling } from "../../runtime/lab/chart.ts";
import { transfer } from "../../runtime/lab/client.ts";
import { picture } from "../../runtime/lab/picture.ts";
import { Recorder } from "../../runtime/lab/recorder.ts";
import { serve } from "../../runtime/lab/servers.ts";

const PLAIN = { markMs: null, width: 22, height: 2, color: false };

Deno.test("chartLines() draws one column for each bin, in eighths", () => {
  const bins = [0, 10_000, 5000, 2500, 1250];
  assert.deepEqual(chartLines({ ...PLAIN, bins, binMs: 1 }), [
    "  10 MB/s ┤ █   ",
    "        0 ┤ ██▄▂",
    "          └0 s0.0 s",
  ]);
});

Deno.test("chartLines() never exceeds its width, and keeps the mark in it", () => {
  const bins = Array.from({ length: 5003 }, (_, index) => index < 2500 || index > 2900 ? 1 : 0);
  for (const width of [20, 33, 80, 120]) {
    const lines = chartLines({ ...PLAIN, bins, binMs: 2, markMs: 5200, width });
    for (const line of lines) assert(line.length <= width, `${line.length} > ${width}: '${line}'`);
    assert(lines[0].includes("│"), lines.join("\n"));
  }
});

Deno.test("niceCeiling() and formatRate() give numbers for people", () => {
  assert.deepEqual([1, 1.2, 9.9, 640, 1e9].map(niceCeiling), [1, 1.5, 10, 700, 1e9]);
  assert.deepEqual([0, 999, 1e6, 1_234_567_890].map(formatRate), [
    "0 B/s",
    "999 B/s",
    "1 MB/s",
    "1.23 GB/s",
  ]);
});

Deno.test("Recorder keeps the longest gaps, longest first, with their places", () => {
  let nowMs = 1000;
  const recorder = new Recorder(() => nowMs);
  for (const ms of [1, 60, 1, 30, 1]) {
    nowMs += ms;
    recorder.note(100);
  }
  const { octets, gaps, bins, startMs, endMs } = recorder.recording();
  assert.deepEqual([octets, startMs, endMs], [500, 1000, 1093]);
  assert.deepEqual(gaps.slice(0, 2), [
    { ms: 60, atMs: 1001, offset: 100 },
    { ms: 30, atMs: 1062, offset: 300 },
  ]);
  assert.equal(bins.reduce((sum, bin) => sum + bin, 0), 500);
  assert.deepEqual([bins[0], bins[61 / 2 | 0], bins[62 / 2], bins[92 / 2]], [100, 100, 100, 200]);
});

Deno.test("picture() is well-formed, holds its texts and refers to nothing outside", () => {
  const svg = picture({
    title: "a < b & c",
    summary: "summary",
    bins: Array.from({ length: 2000 }, (_, index) => index % 7 * 1000),
    binMs: 2,
    gap: { fromMs: 1000, toMs: 1031 },
    fault: { atMs: 999, text: "crash" },
    events: [{ atMs: 1030, text: "suspected" }, { atMs: 1030.2, text: "adopted" }],
  });
  assert.match(svg, /a &#60; b &#38; c/);
  for (const text of ["summary", "crash", "suspected", "adopted", "+31.0 ms", "31.0 ms"]) {
    assert(svg.includes(text), text);
  }
  assert.equal(svg.replace('xmlns="http://www.w3.org/2000/svg"', "").includes("http"), false);
  assert.doesNotMatch(svg, /NaN|Infinity|undefined/);
  const open = [...svg.matchAll(/<(svg|style|text)\b/g)].length;
  assert.equal([...svg.matchAll(/<\/(svg|style|text)>/g)].length, open);
});

for (const kind of ["file", "upload", "echo"] as const) {
  Deno.test(`transfer() of ${kind} tells all octets and finds them as expected`, async () => {
    const address = "127.0.0.1";
    const [listener] = serve(kind, { address, port: 0 });
    const octets = 5_000_001;
    let told = 0;
    try {
      const options = { address, port: listener.addr.port, octets, seed: 3 };
      const result = await transfer(kind, options, (progress) => told = progress.octets);
      assert.equal(result.error, null);
      assert.equal(result.sha256, result.sha256Expected);
      assert.equal(result.bins.reduce((sum, bin) => sum + bin, 0), octets);
      assert(result.ok && told <= octets);
    } finally {
      listener.close();
    }
  });
}

Deno.test("transfer() reports what does not answer, what ends early and what differs", async () => {
  const address = "127.0.0.1";
  using listener = Deno.listen({ hostname: address, port: 0 });
  const options = { address, port: listener.addr.port, octets: 10, seed: 3 };
  const ended = transfer("file", options, () => {});
  (await listener.accept()).close();
  assert.equal((await ended).ok, false);
  const differs = transfer("echo", options, () => {});
  const connection = await listener.accept();
  await connection.write(new Uint8Array(10));
  connection.close();
  assert.equal((await differs).ok, false);
  listener.close();
  const refused = await transfer("file", options, () => {});
  assert.match(refused.error ?? "", /ConnectionRefused/);
});
