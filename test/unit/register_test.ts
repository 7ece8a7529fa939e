/** register_test.ts - the rule of the register, and what it takes for a value or a void from elsewhere. */

import { deepStrictEqual, strictEqual } from "node:assert/strict";
import {
  asRegisterValue,
  asVoids,
  type Claim,
  decide,
  EPOCH_MAX,
  PEERS_MAX,
  VOIDS_MAX,
} from "../../runtime/protocol/register.ts";

const HELD = { epoch: 5, owner: "a", token: "life-1", follows: 4 };
const CLAIM: Claim = { expect: 5, voids: [], epoch: 6, owner: "b", token: "life-2" };
const TAKEN = { epoch: 6, owner: "b", token: "life-2", follows: 5 };

Deno.test("decide() grants what follows on what the claimant knows, and nothing else", () => {
  deepStrictEqual(decide(null, { ...CLAIM, expect: 0, epoch: 1 }), {
    granted: true,
    value: { ...TAKEN, epoch: 1, follows: 0 },
  });
  deepStrictEqual(decide(HELD, CLAIM), { granted: true, value: TAKEN });
  deepStrictEqual(decide(HELD, { ...CLAIM, expect: 4 }), { granted: false, value: HELD });
  deepStrictEqual(decide(HELD, { ...CLAIM, epoch: 5 }), { granted: false, value: HELD });
  deepStrictEqual(decide(null, { ...CLAIM, expect: 6 }), { granted: false, value: null });
});

Deno.test("decide() grants the same claim again, but not the same epoch to another life", () => {
  deepStrictEqual(decide(TAKEN, CLAIM), { granted: true, value: TAKEN });
  deepStrictEqual(decide(TAKEN, { ...CLAIM, token: "life-3" }), { granted: false, value: TAKEN });
  deepStrictEqual(decide(TAKEN, { ...CLAIM, owner: "a" }), { granted: false, value: TAKEN });
});

Deno.test("decide() passes over an epoch that its own claimant has voided", () => {
  const claim = { ...CLAIM, expect: 4, epoch: 7 };
  const voidOf = (token: string, epoch: number) => [{ token, epoch }];
  strictEqual(decide(HELD, { ...claim, voids: voidOf("life-1", 5) }).granted, true);
  strictEqual(
    decide(HELD, { ...claim, voids: voidOf("life-1", 4) }).granted,
    false,
    "an older one",
  );
  strictEqual(
    decide(HELD, { ...claim, voids: voidOf("life-9", 5) }).granted,
    false,
    "another life",
  );
  strictEqual(
    decide(HELD, { ...claim, expect: 3, voids: voidOf("life-1", 5) }).granted,
    false,
    "one that hides a term which the claimant has missed",
  );
});

Deno.test("asRegisterValue() takes values and nothing else", () => {
  deepStrictEqual(asRegisterValue({ ...HELD, more: 1 }), HELD);
  deepStrictEqual(asRegisterValue({ ...HELD, epoch: EPOCH_MAX })?.epoch, EPOCH_MAX);
  // From a version that did not note it.
  deepStrictEqual(asRegisterValue({ ...HELD, follows: undefined })?.follows, HELD.epoch);
  const wrong = [
    ...[null, undefined, 5, "5", []],
    ...[-1, 1.5, EPOCH_MAX + 1, "5", undefined].map((epoch) => ({ ...HELD, epoch })),
    ...["", "a b", "\n", "x".repeat(65), "é", 7, null].map((owner) => ({ ...HELD, owner })),
    ...["", "x".repeat(65), undefined].map((token) => ({ ...HELD, token })),
    ...[-1, "4", null].map((follows) => ({ ...HELD, follows })),
  ];
  for (const raw of wrong) strictEqual(asRegisterValue(raw), null, JSON.stringify(raw));
});

Deno.test("decide() lets only the owner and its heirs follow on a value that names some", () => {
  const held = { ...HELD, heirs: ["b"] };
  deepStrictEqual(decide(held, { ...CLAIM, heirs: ["a"] }), {
    granted: true,
    value: { ...TAKEN, heirs: ["a"] },
  });
  deepStrictEqual(decide({ ...HELD, heirs: ["c", "b"] }, CLAIM).granted, true);
  deepStrictEqual(decide(held, { ...CLAIM, owner: "c" }), { granted: false, value: held });
  deepStrictEqual(
    decide(held, { ...CLAIM, owner: "c", expect: 4, voids: [{ token: held.token, epoch: 5 }] }),
    { granted: false, value: held },
    "nor on one that is void",
  );
  deepStrictEqual(asRegisterValue(held), held);
  deepStrictEqual(asRegisterValue({ ...HELD, heir: "b" }), held, "from an earlier version");
  for (const heirs of ["b", [""], [7], Array(PEERS_MAX + 1).fill("b"), null]) {
    strictEqual(asRegisterValue({ ...held, heirs }), null, JSON.stringify(heirs));
  }
});

Deno.test("decide() lets the owner alone add heirs", () => {
  const held = { ...HELD, heirs: ["b", "c"] };
  const heirs = ["d", "c", "a"];
  deepStrictEqual(decide(held, { ...CLAIM, owner: "a", heirs }).value?.heirs, heirs);
  deepStrictEqual(decide(held, { ...CLAIM, heirs }).value?.heirs, ["c", "a"]);
  deepStrictEqual(decide(HELD, { ...CLAIM, heirs }).value?.heirs, heirs, "there were none");
});

Deno.test("asVoids() takes lists of voids and nothing else", () => {
  const one = { token: "life-1", epoch: 5 };
  deepStrictEqual(asVoids([]), []);
  deepStrictEqual(asVoids([{ ...one, more: 1 }, one]), [one, one]);
  deepStrictEqual(asVoids(Array(VOIDS_MAX).fill(one))?.length, VOIDS_MAX);
  const wrong = [null, {}, one, [null], [7], [one, { ...one, epoch: -1 }], [{ epoch: 5 }]];
  for (const raw of [...wrong, Array(VOIDS_MAX + 1).fill(one)]) {
    strictEqual(asVoids(raw), null, JSON.stringify(raw));
  }
});
