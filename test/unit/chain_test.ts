/** chain_test.ts - who further down the chain counts, from which message on, and what is confirmed then. */

import { deepStrictEqual, strictEqual, throws } from "node:assert/strict";
import { AGAIN_MS, Chain, confirmedBy } from "../../runtime/protocol/chain.ts";
import { MessageError } from "../../runtime/protocol/message.ts";
import { PEERS_MAX } from "../../runtime/protocol/register.ts";
import type { Follower, Replica } from "../../runtime/protocol/replica.ts";

/** A replica's machine, as far as the chain knows it. */
class Machine {
  further: readonly Follower[] = [];
  unheard = new Set<string>();

  handleFollowers(followers: readonly Follower[]): void {
    this.further = followers;
  }

  hears(node: string): boolean {
    return !this.unheard.has(node);
  }

  get names(): string {
    return this.further.map(({ node, isWhole }) => `${node}${isWhole ? "" : "?"}`).join(" ");
  }
}

/** A chain and what it is offered to, in messages of today. */
function made(...nodes: string[]) {
  const chain = new Chain();
  const machine = new Machine();
  chain.setNames(nodes.map((node, i) => ({ node, session: i + 1 })), 10);
  const step = (sent: number, released: number, nowMs = 0) => {
    chain.step(machine as unknown as Replica, { sent, released, nowMs });
    return machine.names;
  };
  return { chain, machine, step };
}

Deno.test("one that begins to follow counts once it has confirmed all it was told", () => {
  const { chain, step } = made("c");
  strictEqual(chain.isTelling, true);
  chain.setNumbers([20]);
  strictEqual(step(20, 20), "", "it is still being told");
  chain.noteTold(25);
  strictEqual(chain.isTelling, false);
  chain.setNumbers([24]);
  strictEqual(step(30, 30), "");
  chain.setNumbers([25]);
  strictEqual(step(30, 30), "c?", "what has left before it may lack");
  chain.setNumbers([30]);
  strictEqual(step(40, 30), "c");
  deepStrictEqual(chain.told, ["c"]);
});

Deno.test("nobody counts whom the one before it in the chain does not", () => {
  const { chain, machine, step } = made("c", "d");
  chain.noteTold(10);
  machine.unheard.add("c");
  strictEqual(step(10, 10), "");
  machine.unheard.clear();
  strictEqual(step(10, 10), "c d");
  machine.handleFollowers([]);
  strictEqual(step(11, 10, AGAIN_MS), "", "both were dropped with it");
});

Deno.test("one that was dropped is offered again later, with all that was sent by then", () => {
  const { chain, machine, step } = made("c");
  chain.noteTold(10);
  strictEqual(step(10, 10), "c");
  machine.handleFollowers([]);
  strictEqual(step(20, 20, AGAIN_MS), "");
  strictEqual(step(20, 20, AGAIN_MS + 1), "", "it lacks what was sent meanwhile");
  chain.setNumbers([20]);
  strictEqual(step(21, 20, AGAIN_MS + 2), "c");
});

Deno.test("one that has lost what it was told counts again when it was told all once more", () => {
  const { chain, step } = made("c", "d");
  chain.noteTold(20);
  chain.setNumbers([30, 30]);
  strictEqual(step(30, 30), "c d");
  chain.forget("c");
  strictEqual(chain.isTelling, true);
  chain.setNumbers([40, 40]);
  strictEqual(step(40, 40), "", "the next one is told by the first");
  chain.noteTold(45);
  strictEqual(step(45, 45), "");
  chain.setNumbers([45, 45]);
  strictEqual(step(50, 45), "c");
  chain.setNumbers([50, 50]);
  strictEqual(step(50, 50, AGAIN_MS + 1), "c d", "it lacks nothing, so it is offered at once");
});

Deno.test("another time of following begins anew", () => {
  const { chain, step } = made("c");
  chain.noteTold(10);
  strictEqual(step(10, 10), "c");
  chain.setNames([{ node: "c", session: 9 }], 12);
  strictEqual(chain.isTelling, true);
  strictEqual(step(12, 12), "");
});

Deno.test("when the head dies the first is the standby, and counts with what was on its way", () => {
  const { chain, step } = made("c", "d");
  const [first, second] = chain.followers;
  first.isWhole = false;
  chain.shift([], 30);
  deepStrictEqual(chain.names, [{ node: "d", session: 2 }]);
  chain.noteStandby(29);
  strictEqual(first.isWhole, false);
  chain.noteStandby(30);
  strictEqual(first.isWhole, true);
  strictEqual(chain.isTelling, true, "of the other it is not known what it was told");
  strictEqual(step(30, 30), "");
  strictEqual(second.isWhole, false);
  const counted = made("c", "d");
  counted.chain.shift([counted.chain.followers[1]], 30);
  strictEqual(counted.chain.isTelling, false);
});

Deno.test("what leaves was confirmed by each keeper, wherever numbers stand", () => {
  const keeper = (node: string, seq: number) => ({ node, session: 1, isWhole: true, seq });
  const heads = { first: 9, standby: "b" };
  strictEqual(confirmedBy([], heads), 9);
  strictEqual(confirmedBy([keeper("b", 0), keeper("c", 12)], heads), 9, "its own number is newer");
  strictEqual(confirmedBy([keeper("c", 7), keeper("d", 8)], heads), 7);
  const around = { first: 3, standby: "b" };
  strictEqual(confirmedBy([keeper("c", 0xfffffffe)], around), 0xfffffffe);
});

Deno.test("numbers never go back, and a chain is not longer than a cluster", () => {
  const { chain } = made("c");
  chain.setNumbers([15, 16]);
  chain.setNumbers([14]);
  deepStrictEqual(chain.numbers, [15]);
  const names = Array.from({ length: PEERS_MAX + 1 }, (_, i) => ({ node: `n${i}`, session: 1 }));
  throws(() => chain.setNames(names, 0), MessageError);
  chain.clear();
  deepStrictEqual(chain.names, []);
});
