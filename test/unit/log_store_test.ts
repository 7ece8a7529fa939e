/**
 * log_store_test.ts - a log on disk keeps what it said is stored, and says so when it was damaged
 *
 * The log is cut off after every octet and altered at every octet, on a directory that then loses what was
 * not synced at random moments (faulty_files.ts), over several lives; and once on a real one.
 */
import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { lockLog, openLogDirectory } from "../../runtime/log_store/files.ts";
import { HEADER_OCTETS, type LogOwner, recordOctets } from "../../runtime/log_store/record.ts";
import {
  LogStoreError,
  recover,
  type Recovered,
  segmentName,
  SegmentWriter,
} from "../../runtime/log_store/segments.ts";
import { FaultyFiles, PowerCut } from "./faulty_files.ts";
import { randomOctets, rounds, seededTest } from "./seeded.ts";

const OWNER: LogOwner = { service: "web", address: "10.0.0.100" };
const EMPTY = { segments: [], nextSegment: 1, nextSeq: 1 };
const MARK = 0xfeed1234;

/** A body that tells which message it is. */
function bodyOf(seq: number): Uint8Array {
  return new Uint8Array(4 + (seq * 52) % 260).fill(seq & 0xff);
}

function append(writer: SegmentWriter, seq: number): void {
  writer.append({ epoch: 3, wallMs: 1000 + seq, body: bodyOf(seq) });
}

/** The messages of a log, checked one by one. */
function readAll(files: FaultyFiles): Recovered & { first: number; last: number } {
  const seqs: number[] = [];
  const recovered = recover(files, OWNER, ({ seq, epoch, wallMs, body }) => {
    seqs.push(seq);
    deepStrictEqual([epoch, wallMs], [3, 1000 + seq]);
    deepStrictEqual(new Uint8Array(body), bodyOf(seq));
  });
  seqs.forEach((seq, index) => strictEqual(seq, seqs[0] + index));
  strictEqual(recovered.records, seqs.length);
  return { ...recovered, first: seqs[0] ?? recovered.nextSeq, last: recovered.nextSeq - 1 };
}

/** Two segments of messages in groups of two; where each group ends in the second. */
function sample(): { files: FaultyFiles; bytes: Uint8Array; name: string; groups: number[] } {
  const files = new FaultyFiles();
  const writer = new SegmentWriter(files, OWNER, EMPTY);
  const groups: number[] = [];
  let octets = HEADER_OCTETS;
  for (let seq = 1; seq <= 12; seq++) {
    if (seq === 1 || seq === 5) writer.begin(MARK + seq);
    append(writer, seq);
    if (seq >= 5) octets += recordOctets(bodyOf(seq).length);
    if (seq % 2 === 0) writer.commit();
    if (seq > 5 && seq % 2 === 0) groups.push(octets);
  }
  const name = segmentName(2);
  return { files, bytes: files.read(name), name, groups };
}

Deno.test("a log that was cut off at any octet of its last segment ends with its last whole message", () => {
  const { files, bytes, name } = sample();
  const ends: number[] = [HEADER_OCTETS];
  for (let seq = 5; seq <= 12; seq++) ends.push(ends.at(-1)! + recordOctets(bodyOf(seq).length));
  strictEqual(ends.at(-1), bytes.length);
  for (let length = 0; length <= bytes.length; length++) {
    const cut = files.afterKill();
    cut.put(name, bytes.subarray(0, length));
    const { last, nextSegment, cutOctets, segments } = readAll(cut);
    const whole = ends.filter((end) => end <= length).length - 1;
    strictEqual(last, 4 + Math.max(0, whole));
    strictEqual(cutOctets, length - (whole < 0 ? 0 : ends[whole]));
    deepStrictEqual([segments.at(-1), nextSegment], whole < 0 ? [1, 2] : [2, 3]);
    // What follows is found again, and nothing of the torn end.
    const again = readAll(cut);
    strictEqual(again.cutOctets, 0);
    const writer = new SegmentWriter(cut, OWNER, again);
    writer.begin(MARK);
    append(writer, last + 1);
    writer.commit();
    strictEqual(readAll(cut).last, last + 1);
  }
});

Deno.test("a log that was altered before its last group is refused, with the place", () => {
  const { files, bytes, name, groups } = sample();
  const lastGroup = groups.at(-2)!;
  for (let at = 0; at < bytes.length; at++) {
    const altered = files.afterKill();
    const octets = bytes.slice();
    octets[at] ^= 1 << (at & 7);
    altered.put(name, octets);
    if (at >= lastGroup) {
      // The same as a group that never was stored: nothing after it tells otherwise.
      ok(readAll(altered).last >= 10, `octet ${at}`);
      continue;
    }
    throws(() => readAll(altered), (error: Error) => {
      ok(error instanceof LogStoreError, `octet ${at}: ${error.message}`);
      const start = at < HEADER_OCTETS ? 0 : [...starts(bytes)].findLast((from) => from <= at)!;
      const place = `/log/0000000002.log is damaged at octet ${start}: expected `;
      ok(error.message.includes(place), `octet ${at}: ${error.message}`);
      ok(/, found \S/.test(error.message), error.message);
      return true;
    });
    deepStrictEqual(altered.read(name), octets, "a log that is refused is left as it is");
  }
});

/** Where the records of the second segment begin. */
function* starts(bytes: Uint8Array): Generator<number> {
  let at = HEADER_OCTETS;
  for (let seq = 5; at < bytes.length; seq++) {
    yield at;
    at += recordOctets(bodyOf(seq).length);
  }
}

Deno.test("a log is refused when a segment is missing, altered, swapped or another service's", () => {
  const { files, bytes } = sample();
  const missing = files.afterKill();
  missing.put(segmentName(4), bytes);
  throws(() => readAll(missing), /\/log\/0000000003\.log is missing, though 0000000004\.log/);
  const first = files.read(segmentName(1));
  first[first.length - 1] ^= 1;
  const altered = files.afterKill();
  altered.put(segmentName(1), first);
  throws(() => readAll(altered), /0000000001\.log is damaged at octet \d+: expected checksum/);
  const swapped = files.afterKill();
  swapped.put(segmentName(2), files.read(segmentName(1)));
  throws(() => readAll(swapped), /expected segment 2, found 1/);
  const shorter = files.afterKill();
  shorter.put(segmentName(1), files.read(segmentName(1)).slice(0, -recordOctets(bodyOf(4).length)));
  throws(() => readAll(shorter), /expected message 4, found one that begins with 5/);
  const other = { ...OWNER, address: "10.0.0.101" };
  throws(
    () => recover(files, other, () => {}),
    /log of service web at 10\.0\.0\.100, expected web at 10\.0\.0\.101; move its directory/,
  );
});

Deno.test("a body that looks like records cannot make a torn end look like damage", () => {
  const files = new FaultyFiles();
  const writer = new SegmentWriter(files, OWNER, EMPTY);
  writer.begin(1);
  append(writer, 1);
  writer.commit();
  const source = new FaultyFiles();
  const other = new SegmentWriter(source, OWNER, { ...EMPTY, nextSeq: 900 });
  other.begin(2);
  append(other, 900);
  other.commit();
  const image = source.read(segmentName(1)).slice(HEADER_OCTETS);
  writer.append({ epoch: 3, wallMs: 1002, body: image });
  writer.commit();
  const bytes = files.read(segmentName(1));
  files.put(segmentName(1), bytes.slice(0, -8));
  strictEqual(readAll(files).last, 1);
});

Deno.test("old segments go, the one in use stays, and a cleared log begins anew", () => {
  const files = new FaultyFiles();
  const writer = new SegmentWriter(files, OWNER, EMPTY);
  for (let seq = 1; seq <= 5; seq++) {
    writer.begin(MARK);
    append(writer, seq);
  }
  strictEqual(writer.segment, 5);
  writer.removeBelow(3);
  writer.commit();
  deepStrictEqual(files.list().sort(), [3, 4, 5].map(segmentName));
  strictEqual(readAll(files).first, 3);
  writer.removeBelow(99);
  deepStrictEqual(files.list(), [segmentName(5)]);
  writer.clear();
  deepStrictEqual([files.list(), writer.oldest], [[], 6]);
  writer.begin(MARK);
  append(writer, 6);
  writer.commit();
  deepStrictEqual([readAll(files).first, readAll(files).last], [6, 6]);
});

Deno.test("a group that found the disk full is written again when there is room", () => {
  const files = new FaultyFiles();
  const writer = new SegmentWriter(files, OWNER, EMPTY);
  writer.begin(MARK);
  append(writer, 1);
  writer.commit();
  files.capacity = files.read(segmentName(1)).length + 50;
  append(writer, 2);
  append(writer, 3);
  throws(() => writer.commit(), /No space left on device/);
  strictEqual(readAll(files.afterKill()).last, 1);
  files.capacity = Infinity;
  writer.commit();
  strictEqual(readAll(files).last, 3);
});

seededTest(
  "nothing that was stored is lost when unsynced data goes at a random write",
  (random) => {
    for (let round = 0; round < rounds(200); round++) {
      const calls = () => 1 + random.integer(60);
      let files = new FaultyFiles(calls());
      let acknowledged = 0;
      /** The first message that may not go, and where segments begin. */
      let needed = 1;
      const begins = new Map<number, number>();
      for (let life = 0; life < 6; life++) {
        let found: Recovered = { ...EMPTY, octets: 0, records: 0, cutOctets: 0 };
        try {
          found = readAll(files);
          let seq = found.nextSeq;
          const writer = new SegmentWriter(files, OWNER, found);
          begins.set(writer.segment + 1, seq);
          writer.begin(random.integer(2 ** 32));
          for (;;) {
            const choice = random.integer(10);
            if (choice < 6) append(writer, seq++);
            else if (choice === 6) writer.write();
            else if (choice === 7) {
              begins.set(writer.segment + 1, seq);
              writer.begin(random.integer(2 ** 32));
            } else if (choice === 8) {
              const below = Math.min(writer.oldest + random.integer(3), writer.segment);
              needed = Math.max(needed, begins.get(below)!);
              writer.removeBelow(below);
            } else {
              writer.commit();
              acknowledged = seq - 1;
            }
          }
        } catch (error) {
          if (!(error instanceof PowerCut)) throw error;
        }
        files = random.integer(4) === 0
          ? files.afterKill(calls())
          : files.afterPowerCut(random, calls());
        const { first, last } = readAll(files.afterKill());
        ok(last >= acknowledged, `stored up to ${acknowledged}, found ${first} to ${last}`);
        ok(first <= needed, `found ${first}, needed ${needed}`);
      }
    }
  },
  { fresh: true },
);

Deno.test("a log in a real directory is found again, and belongs to one process", async () => {
  const directory = await Deno.makeTempDir({ prefix: "holdfast-log-" });
  try {
    const path = `${directory}/web.log`;
    const lock = lockLog(path);
    throws(() => lockLog(path), /another process has it open/);
    lock.close();
    const files = openLogDirectory(path);
    const writer = new SegmentWriter(files, OWNER, recover(files, OWNER, () => {}));
    for (let seq = 1; seq <= 4; seq++) {
      if (seq % 2 === 1) writer.begin(MARK);
      append(writer, seq);
    }
    writer.commit();
    writer.removeBelow(2);
    writer.close();
    const last = files.pathOf(segmentName(2));
    strictEqual(Deno.statSync(last).mode! & 0o777, 0o600);
    Deno.writeFileSync(last, randomOctets({ integer: () => 7 } as never, 30), { append: true });
    const seqs: number[] = [];
    const found = recover(files, OWNER, ({ seq }) => seqs.push(seq));
    deepStrictEqual([seqs, found.cutOctets, found.segments], [[3, 4], 30, [2]]);
    deepStrictEqual(recover(files, OWNER, () => {}).cutOctets, 0);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
