/** keepers_test.ts - a message is committed when everybody who counts has it, and for nobody else. */
import { strictEqual } from "node:assert/strict";
import { Keepers } from "../../runtime/protocol/keepers.ts";

/** More than all that is told. */
const NEXT = 1000;

Deno.test("Keepers: the slowest of those that count decides", () => {
  const keepers = new Keepers();
  strictEqual(keepers.committed, null);
  keepers.add("disk", 5);
  strictEqual(keepers.committed, 4);
  keepers.confirm("disk", 7, NEXT);
  strictEqual(keepers.committed, 7);
  keepers.add("standby", 9);
  strictEqual(keepers.committed, 7, "what came before the standby needs the disk alone");
  keepers.confirm("standby", 12, NEXT);
  strictEqual(keepers.committed, 7);
  keepers.confirm("disk", 10, NEXT);
  strictEqual(keepers.committed, 10);
  keepers.confirm("disk", 20, NEXT);
  strictEqual(keepers.committed, 12);
});

Deno.test("Keepers: one that is gone is waited for no more, and what it says counts no more", () => {
  const keepers = new Keepers();
  keepers.add("disk", 1);
  keepers.add("standby", 1);
  keepers.confirm("disk", 8, NEXT);
  strictEqual(keepers.committed, 0);
  keepers.remove("standby");
  strictEqual(keepers.committed, 8);
  keepers.confirm("standby", 100, NEXT);
  strictEqual(keepers.has("standby"), false);
  strictEqual(keepers.committed, 8);
  keepers.add("standby", 9);
  keepers.remove("disk");
  strictEqual(keepers.committed, 8);
  keepers.clear();
  strictEqual(keepers.isEmpty, true);
  strictEqual(keepers.committed, null);
});

Deno.test("Keepers: a word about what was not told yet is none", () => {
  const keepers = new Keepers();
  keepers.add("standby", 5);
  keepers.confirm("standby", 9, 9);
  strictEqual(keepers.committed, 4);
  keepers.confirm("standby", 8, 9);
  strictEqual(keepers.committed, 8);
});

Deno.test("Keepers: confirmations never go back, also around 2^32", () => {
  const keepers = new Keepers();
  keepers.add("disk", 0);
  strictEqual(keepers.committed, 0xffffffff);
  keepers.confirm("disk", 3, NEXT);
  keepers.confirm("disk", 0xfffffffe, NEXT);
  strictEqual(keepers.committed, 3);
  keepers.add("standby", 0xfffffff0);
  keepers.confirm("standby", 0xfffffffb, NEXT);
  strictEqual(keepers.committed, 0xfffffffb);
  keepers.confirm("standby", 5, NEXT);
  strictEqual(keepers.committed, 3);
});
