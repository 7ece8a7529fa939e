/** run_test.ts - what the test runner reads in a JUnit report, in the forms that Deno writes. */

import assert from "node:assert/strict";
import { readJunit } from "../run.ts";

Deno.test("readJunit() tells passed, failed and skipped tests apart", () => {
  const report = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="deno test" tests="4" failures="1" errors="0" time="1">
  <testsuite name="a_test.ts" tests="4" disabled="0" errors="0" failures="1">
    <testcase name="a() > b" classname="a_test.ts" time="0.008" line="7" col="6">
    </testcase>
    <testcase name="closed at once" time="0.1"/>
    <testcase name="it &quot;broke&quot;"><failure message="x > y">
      seed &lt; 5 &#38; more</failure></testcase>
    <testcase name="left out"><skipped/></testcase>
  </testsuite>
</testsuites>`;
  assert.deepEqual(readJunit(report), {
    passed: 2,
    failed: 1,
    skipped: 1,
    failures: ['it "broke"\nseed < 5 & more'],
  });
  assert.deepEqual(readJunit(""), { passed: 0, failed: 0, skipped: 0, failures: [] });
});
