/**
 * takeover_loss_test.ts - a crash while the client's own link is bad
 *
 *   client ---- hop (loss, duplicates, reordering, delay) ---- switch ---- a, b
 *
 * Claim: uploads, downloads and echoes go on through the death of the primary's host while the
 * client's link loses 1 % or 5 % of the segments, repeats them or reorders them, in both directions.
 * The faults of the link come from the test's seed.
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { netTest, sleep } from "./conditions.ts";
import { mixedServer, withSite } from "./harness.ts";
import type { HopOptions } from "./splice.ts";
import { assertUnbroken } from "./verdict.ts";

const DURATION_MS = 5000;
const RATE = 3_000_000;

const LINKS: { name: string; options: HopOptions }[] = [
  { name: "1 % loss", options: { lossRatio: 0.01 } },
  { name: "5 % loss", options: { lossRatio: 0.05 } },
  { name: "5 % duplicates", options: { duplicateRatio: 0.05 } },
  { name: "5 % reordering", options: { reorderRatio: 0.05 } },
  {
    name: "1 % loss, duplicates and reordering at 10 ms",
    options: {
      lossRatio: 0.01,
      duplicateRatio: 0.01,
      reorderRatio: 0.01,
      delayMs: 5,
      jitterMs: 2,
    },
  },
];

for (const { name, options } of LINKS) {
  netTest(`connections survive a crash on a link with ${name}`, [], async (context) => {
    await withSite(context, { run: mixedServer() }, async (site) => {
      const hop = await site.spliceHop({ ...options, seed: context.random.seed() });
      await site.waitProtected();
      const capture = await site.startCapture();
      const momentMs = Math.round(context.random.between(1500, 3500));
      const workload = await site.startWorkload({
        seed: context.random.seed(),
        connections: 12,
        mix: ["download", "upload", "echo", "keepalive"],
        durationMs: DURATION_MS,
        momentMs,
        rate: RATE,
      });
      const primary = await site.primary();
      await workload.go();
      await sleep(momentMs);
      const faultMs = await site.crash(primary);
      await workload.mustSucceed(120_000);
      const dropped = await capture.stop();
      const { up, down } = await hop.stop();
      const trace = traceTcp(capture.path, site.address);
      assertUnbroken(trace, { faultMs, isDisorderly: true, dropped });
      for (const direction of [up, down]) {
        const { lost, duplicated, reordered, oversized, kernelDrops } = direction;
        assert.equal(lost > 0, options.lossRatio !== undefined, "lost");
        assert.equal(duplicated > 0, options.duplicateRatio !== undefined, "duplicated");
        assert.equal(reordered > 0, options.reorderRatio !== undefined, "reordered");
        assert.deepEqual({ oversized, kernelDrops }, { oversized: 0, kernelDrops: 0 });
      }
    });
  });
}
