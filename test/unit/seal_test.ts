/**
 * seal_test.ts - beats and records that were altered, replayed, moved or sealed with an old key are refused
 */
import { deepStrictEqual, notStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { Memory } from "../../runtime/io/libc.ts";
import { Keyring, SECRET_LENGTH, SECRETS_MAX } from "../../runtime/protocol/keyring.ts";
import { ReplayWindow, WINDOW } from "../../runtime/protocol/replay_window.ts";
import {
  BEAT_HEADER,
  BeatSeal,
  type Place,
  placeOf,
  RECORD_HEADER,
  StreamSeal,
} from "../../runtime/seal.ts";

const A = "10.0.0.1:7946";
const B = "10.0.0.2:7946";

function secretOf(octet: number): Uint8Array {
  return new Uint8Array(SECRET_LENGTH).fill(octet);
}

/** A keyring that sends with the first of some ids. */
function keyringOf(...ids: number[]): Keyring {
  const keyring = new Keyring(1 << 20);
  for (const id of ids) keyring.install(id, secretOf(id));
  keyring.use(ids[0]);
  return keyring;
}

/** `text` with room for a header before it. */
function placed(text: string, header: number): { place: Place; length: number } {
  const octets = new TextEncoder().encode(text);
  const { bytes } = new Memory(header + octets.length);
  bytes.set(octets, header);
  return { place: placeOf(bytes), length: octets.length };
}

function textIn({ bytes }: Place, header: number): string {
  return new TextDecoder().decode(bytes.subarray(header));
}

/** A copy that can be opened or altered. */
function copyOf({ bytes }: Place): Place {
  return placeOf(Memory.of(bytes).bytes);
}

function beatSeals(a = keyringOf(1), b = keyringOf(1)) {
  return {
    a: new BeatSeal(a, { node: "a", peer: "b", local: A, remote: B }),
    b: new BeatSeal(b, { node: "b", peer: "a", local: B, remote: A }),
  };
}

function sealedBeat(seal: BeatSeal, text: string): Place {
  const { place, length } = placed(text, BEAT_HEADER);
  strictEqual(seal.seal(place, length), place.bytes.length);
  return place;
}

Deno.test("BeatSeal opens a peer's beat once", () => {
  const { a, b } = beatSeals();
  const beat = sealedBeat(a, "I am alive");
  ok(!textIn(beat, BEAT_HEADER).includes("alive"));
  const opened = copyOf(beat);
  strictEqual(b.open(opened, opened.bytes.length), null);
  strictEqual(textIn(opened, BEAT_HEADER), "I am alive");
  strictEqual(b.open(copyOf(beat), beat.bytes.length), "it was there before");
  a.close();
  b.close();
});

Deno.test("BeatSeal refuses a beat with any bit of any octet altered, and takes the right one after", () => {
  const { a, b } = beatSeals();
  const beat = sealedBeat(a, "I am alive");
  for (let at = 0; at < beat.bytes.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const altered = copyOf(beat);
      altered.bytes[at] ^= 1 << bit;
      notStrictEqual(b.open(altered, altered.bytes.length), null, `octet ${at}, bit ${bit}`);
    }
  }
  for (let length = 0; length < beat.bytes.length; length++) {
    notStrictEqual(b.open(copyOf(beat), length), null, `cut to ${length}`);
  }
  strictEqual(b.open(beat, beat.bytes.length), null);
  a.close();
  b.close();
});

Deno.test("BeatSeal refuses a beat that comes back to its sender, or over another link", () => {
  const { a, b } = beatSeals();
  const beat = sealedBeat(a, "I am alive");
  strictEqual(a.open(copyOf(beat), beat.bytes.length), "it was altered");
  const other = new BeatSeal(keyringOf(1), {
    node: "b",
    peer: "a",
    local: "10.0.1.2:7946",
    remote: "10.0.1.1:7946",
  });
  strictEqual(other.open(copyOf(beat), beat.bytes.length), "it was altered");
  a.close();
  b.close();
  other.close();
});

Deno.test("BeatSeal takes beats of both keys during a renewal, and none of a dropped one", () => {
  const keys = { a: keyringOf(1, 2), b: keyringOf(1, 2) };
  const { a, b } = beatSeals(keys.a, keys.b);
  const old = [sealedBeat(a, "one"), sealedBeat(a, "two")];
  keys.a.use(2);
  const fresh = sealedBeat(a, "three");
  strictEqual(b.open(fresh, fresh.bytes.length), null);
  strictEqual(b.open(old[0], old[0].bytes.length), null);
  keys.b.use(2);
  keys.b.keepOnly(2);
  strictEqual(b.open(old[1], old[1].bytes.length), "its key is not known, or no longer");
  a.close();
  b.close();
});

Deno.test("ReplayWindow takes each of the last numbers once, in any order", () => {
  const window = new ReplayWindow();
  ok(!window.isFresh(0));
  const taken = new Set<number>();
  let highest = 0;
  // A walk that jumps ahead, falls back, and repeats itself.
  for (let step = 0; step < 20_000; step++) {
    const number = Math.max(0, highest + ((step * 7919) % 97) - 80 + (step % 1000 === 0 ? 200 : 0));
    const expected = number > 0 && number > highest - WINDOW && !taken.has(number);
    strictEqual(window.isFresh(number), expected, `number ${number} after ${highest}`);
    if (!expected) continue;
    window.take(number);
    taken.add(number);
    highest = Math.max(highest, number);
  }
  ok(highest > 1000);
});

function streamSeals(a = keyringOf(1), b = keyringOf(1)) {
  const seals = {
    a: new StreamSeal(a, { node: "a", peer: "b", connects: true }),
    b: new StreamSeal(b, { node: "b", peer: "a", connects: false }),
  };
  seals.a.meet(seals.b.nonce);
  seals.b.meet(seals.a.nonce);
  return seals;
}

function sealedRecord(seal: StreamSeal, text: string): Place {
  const { place, length } = placed(text, RECORD_HEADER);
  ok(seal.seal(place, length));
  strictEqual(seal.textLength(place.bytes, 0), length);
  return place;
}

Deno.test("StreamSeal opens records in order, both ways", () => {
  const { a, b } = streamSeals();
  for (let i = 0; i < 100; i++) {
    for (const [from, to] of [[a, b], [b, a]]) {
      const record = sealedRecord(from, `record ${i}`);
      strictEqual(to.open(record), null);
      strictEqual(textIn(record, RECORD_HEADER), `record ${i}`);
    }
  }
  a.close();
  b.close();
});

Deno.test("StreamSeal refuses a record with any bit of any octet altered", () => {
  const { a, b } = streamSeals();
  const record = sealedRecord(a, "a record");
  for (let at = 4; at < record.bytes.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const altered = copyOf(record);
      altered.bytes[at] ^= 1 << bit;
      notStrictEqual(b.open(altered), null, `octet ${at}, bit ${bit}`);
    }
  }
  // The length is authenticated too; a longer one would not have been handed over.
  for (let length = 0; length < 8; length++) {
    const shorter = copyOf(record);
    shorter.bytes[3] = length;
    notStrictEqual(b.open(shorter), null, `length ${length}`);
  }
  strictEqual(b.open(record), null);
  a.close();
  b.close();
});

Deno.test("StreamSeal refuses a record that is repeated, left out, or of another connection", () => {
  const { a, b } = streamSeals();
  const records = ["one", "two", "three"].map((text) => sealedRecord(a, text));
  strictEqual(b.open(copyOf(records[0])), null);
  const notNext = "it was altered, or is not the next one";
  strictEqual(b.open(copyOf(records[0])), notNext);
  strictEqual(b.open(copyOf(records[2])), notNext);
  strictEqual(b.open(copyOf(records[1])), null);
  strictEqual(b.open(copyOf(records[2])), null);
  // The same stream, replayed to the same node on a new connection: the nonce is another one.
  const again = new StreamSeal(keyringOf(1), { node: "b", peer: "a", connects: false });
  again.meet(a.nonce);
  strictEqual(again.open(copyOf(records[0])), notNext);
  for (const seal of [a, b, again]) seal.close();
});

Deno.test("StreamSeal changes to a new key between two records, and not back", () => {
  const keys = { a: keyringOf(1, 2), b: keyringOf(1, 2) };
  const { a, b } = streamSeals(keys.a, keys.b);
  strictEqual(b.open(sealedRecord(a, "with 1")), null);
  keys.a.use(2);
  strictEqual(b.open(sealedRecord(a, "with 2")), null);
  keys.a.use(1);
  strictEqual(keys.a.sendId, 2);
  keys.b.keepOnly(2);
  strictEqual(b.open(sealedRecord(a, "with 2 again")), null);
  a.close();
  b.close();
});

Deno.test("StreamSeal seals nothing after it was closed", () => {
  const { a, b } = streamSeals();
  a.close();
  const { place, length } = placed("late", RECORD_HEADER);
  strictEqual(a.seal(place, length), false);
  strictEqual(a.open(place), "the connection is closed");
  b.close();
});

Deno.test("Keyring keeps what is sent with and what was heard, however many are installed", () => {
  const keyring = keyringOf(1);
  keyring.install(2, secretOf(2));
  keyring.noteHeard(2);
  for (let id = 3; id < 20; id++) {
    keyring.install(id, secretOf(id));
    ok(keyring.ids.length <= SECRETS_MAX);
    ok(keyring.secret(1) !== undefined && keyring.secret(2) !== undefined, `after ${id}`);
  }
  keyring.use(19);
  keyring.keepOnly(19);
  deepStrictEqual(keyring.ids, [19]);
});

Deno.test("Keyring takes a secret of the right length, once for each id", () => {
  const keyring = keyringOf(1);
  keyring.install(1, secretOf(9));
  deepStrictEqual(keyring.secret(1), secretOf(1), "numbers would begin anew under another secret");
  throws(() => keyring.install(2, new Uint8Array(SECRET_LENGTH - 1)), { name: "RangeError" });
  deepStrictEqual(keyring.ids, [1]);
});

Deno.test("Keyring goes on with the newest secret that it was told to use", () => {
  const keyring = keyringOf(1);
  keyring.use(7);
  strictEqual(keyring.sendId, 1, "one that is not installed");
  keyring.install(2, secretOf(2));
  keyring.use(2);
  keyring.use(1);
  strictEqual(keyring.sendId, 2, "an older one");
});

Deno.test("Keyring asks for renewal once when its secret is worn", () => {
  const keyring = keyringOf(1);
  keyring.noteSealed((1 << 20) - 1);
  ok(!keyring.takeWorn());
  keyring.noteSealed(1);
  ok(keyring.takeWorn());
  keyring.noteSealed(1 << 20);
  ok(!keyring.takeWorn());
  keyring.install(2, secretOf(2));
  keyring.use(2);
  keyring.noteSealed(1 << 20);
  ok(keyring.takeWorn());
});
