/**
 * message_test.ts - what daemons say to each other, said right, cut short, and said with malice
 *
 * Claims: every message comes back as it went; whatever else arrives is refused with a MessageError,
 * nothing of it is revived, and no other error escapes. Hostile items are written octet by octet
 * (RFC 8949 section 3), because an encoder would not write them. The same tricks are shown to work on
 * cbor-x itself, so that a refusal here means something.
 */
import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { Decoder } from "cbor-x/index-no-eval";
import { LIMITS } from "../../runtime/config.ts";
import {
  type Beat,
  BEAT_MAX,
  type BeatService,
  decodeBeat,
  decodeFrame,
  encodeBeat,
  encodeFrame,
  ENVELOPE_MAX,
  type Frame,
  MessageError,
  ROLES,
  VERSION,
} from "../../runtime/protocol/message.ts";
import type { Random } from "../net/random.ts";
import { pick, randomOctets, rounds, seededTest } from "./seeded.ts";

/** The head of an item with its shortest length (RFC 8949 section 3). */
function head(major: number, value: number): number[] {
  const first = major << 5;
  if (value < 24) return [first | value];
  if (value < 0x100) return [first | 24, value];
  if (value < 0x10000) return [first | 25, value >> 8, value & 255];
  return [first | 26, value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];
}

const uint = (value: number) => head(0, value);

function text(value: string): number[] {
  const octets = new TextEncoder().encode(value);
  return [...head(3, octets.length), ...octets];
}

function array(items: readonly number[][]): number[] {
  return [...head(4, items.length), ...items.flat()];
}

/** What a field of a message may hold. */
type FieldType = "fixed" | "u32" | "text" | "role" | "bit" | "list";

/** A message, and its items one by one. */
interface Sample {
  name: string;
  encoded: Uint8Array;
  items: number[][];
  types: FieldType[];
  decode: (bytes: Uint8Array) => unknown;
}

const SERVICES: BeatService[] = [
  {
    name: "web",
    role: "primary",
    epoch: 7,
    ready: true,
    asking: false,
    voided: 6,
    invites: true,
    counted: 9,
  },
  {
    name: "db",
    role: "joining",
    epoch: 0xffffffff,
    ready: false,
    asking: true,
    voided: 0xffffffff,
    invites: false,
    counted: 0xffffffff,
  },
];
const BEAT: Beat = {
  kind: "beat",
  node: "a",
  incarnation: 0xffffffff,
  seq: 24,
  echoSeq: 0,
  echoDelayUs: 65536,
  services: SERVICES,
};
const FRAMES: Frame[] = [
  {
    kind: "hello",
    node: "b",
    service: "web",
    epoch: 3,
    mtu: 1500,
    logLimit: 8 << 20,
    capacity: 65536,
    session: 0xfffffffe,
    keepsLogs: true,
  },
  { kind: "welcome", node: "a", epoch: 3, mtu: 9000, logLimit: 1 << 30, capacity: 4_000_000 },
  { kind: "data", epoch: 1, seq: 0xffffffff, committed: 0, bodyLength: 4 << 20, further: [] },
  { kind: "data", epoch: 1, seq: 2, committed: 1, bodyLength: 0, further: [7, 0xffffffff] },
  { kind: "chain", names: [{ node: "c", session: 0xffffffff }, { node: "d", session: 1 }] },
  { kind: "lead", epoch: 8 },
  { kind: "handover", epoch: 256, reason: "switch" },
  { kind: "took", epoch: 65536 },
  { kind: "refuse", why: "no service of that name" },
  { kind: "resume", node: "b", service: "web", epoch: 3, session: 7, applied: 0xffffffff },
  { kind: "resumed", epoch: 3, applied: 0 },
  { kind: "whole", epoch: 7 },
];

const SERVICE_TYPES: FieldType[] = ["text", "role", "u32", "bit", "bit", "u32", "bit", "u32"];
const FRAME_TYPES: Record<Frame["kind"], FieldType[]> = {
  hello: ["text", "text", "u32", "u32", "u32", "u32", "u32", "bit"],
  welcome: ["text", "u32", "u32", "u32", "u32"],
  data: ["u32", "u32", "u32", "u32", "list"],
  handover: ["u32", "text"],
  took: ["u32"],
  refuse: ["text"],
  resume: ["text", "text", "u32", "u32", "u32"],
  resumed: ["u32", "u32"],
  whole: ["u32"],
  chain: ["list"],
  lead: ["u32"],
};
const FRAME_KINDS: Frame["kind"][] = [
  "hello",
  "welcome",
  "data",
  "handover",
  "took",
  "refuse",
  "resume",
  "resumed",
  "whole",
  "chain",
  "lead",
];

/** A field of a frame as an item. */
function frameItem(field: string, value: unknown): number[] {
  if (field === "names") {
    const names = value as { node: string; session: number }[];
    return array(names.map(({ node, session }) => array([text(node), uint(session)])));
  }
  if (Array.isArray(value)) return array(value.map(uint));
  return typeof value === "string" ? text(value) : uint(value as number);
}

function frameSample(frame: Frame): Sample {
  const { kind, ...fields } = frame;
  return {
    name: kind,
    encoded: encodeFrame(frame),
    items: [
      uint(VERSION),
      uint(FRAME_KINDS.indexOf(kind) + 1),
      ...Object.entries(fields).map(([field, value]) => frameItem(field, value)),
    ],
    types: ["fixed", "fixed", ...FRAME_TYPES[kind]],
    decode: decodeFrame,
  };
}

function serviceItems(service: BeatService): number[][] {
  const { name, role, epoch, ready, asking, voided, invites, counted } = service;
  return [
    text(name),
    uint(ROLES.indexOf(role)),
    uint(epoch),
    uint(ready ? 1 : 0),
    uint(asking ? 1 : 0),
    uint(voided),
    uint(invites ? 1 : 0),
    uint(counted),
  ];
}

const BEAT_SAMPLE: Sample = {
  name: "beat",
  encoded: encodeBeat(BEAT),
  items: [
    uint(VERSION),
    uint(0),
    text(BEAT.node),
    uint(BEAT.incarnation),
    uint(BEAT.seq),
    uint(BEAT.echoSeq),
    uint(BEAT.echoDelayUs),
    array(SERVICES.map((service) => array(serviceItems(service)))),
  ],
  types: ["fixed", "fixed", "text", "u32", "u32", "u32", "u32", "list"],
  decode: decodeBeat,
};
const SAMPLES: Sample[] = [BEAT_SAMPLE, ...FRAMES.map(frameSample)];

/** Items of every kind, and which fields may hold them. */
const STRANGERS: [what: string, octets: number[], fits: FieldType[]][] = [
  ["0", uint(0), ["u32", "role", "bit"]],
  ["1", uint(1), ["u32", "role", "bit"]],
  ["2", uint(2), ["u32", "role"]],
  ["4", uint(4), ["u32"]],
  ["2^32 - 1", uint(0xffffffff), ["u32"]],
  ["2^32", [0x1b, 0, 0, 0, 1, 0, 0, 0, 0], []],
  ["2^53", [0x1b, 0, 0x20, 0, 0, 0, 0, 0, 0], []],
  ["2^64 - 1", [0x1b, ...new Array(8).fill(255)], []],
  ["-1", [0x20], []],
  ["octets", [0x43, 97, 98, 99], []],
  ["an empty text", [0x60], ["text"]],
  ["a text of 64 octets", text("x".repeat(64)), ["text"]],
  ["a text of 65 octets", text("x".repeat(65)), []],
  ["a text that is no UTF-8", [0x62, 97, 0xe0], []],
  ["a surrogate in UTF-8", [0x63, 0xed, 0xa0, 0x80], []],
  ["a text of unknown length", [0x7f, 0x61, 97, 0xff], []],
  ["an empty array", [0x80], ["list"]],
  ["an array of unknown length", [0x9f, 0xff], []],
  ["an array of arrays", [0x81, 0x80], []],
  ["an array too deep", [0x81, 0x81, 0x81, 0x80], []],
  ["a map", [0xa1, 0x61, 97, 1], []],
  ["a map with __proto__", [0xa1, ...text("__proto__"), 0xa0], []],
  ["false", [0xf4], []],
  ["true", [0xf5], []],
  ["null", [0xf6], []],
  ["undefined", [0xf7], []],
  ["a half float", [0xf9, 0x3c, 0], []],
  ["a double", [0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0], []],
  ["a break", [0xff], []],
  ["a reserved head", [0x1c], []],
  ["a date", [0xc1, ...uint(1)], []],
  ["a bignum", [0xc2, 0x41, 1], []],
  ["a RegExp", [0xd8, 27, ...array([text("RegExp"), text("(a+)+$")])], []],
  ["an Error", [0xd8, 27, ...array([text("Error"), text("boo")])], []],
  ["a set", [0xd9, 0x01, 0x02, 0x80], []],
  ["a shared value", [0xd8, 28, 0x80], []],
  ["a reference", [0xd8, 29, 0], []],
  ["a record", [0xd9, 0xdf, 0xff, ...array([uint(5), array([text("a")]), uint(1)])], []],
  ["a long array's head", [0x9a, 0xff, 0xff, 0xff, 0xff], []],
  ["a huge array's head", [0x9b, ...new Array(8).fill(255)], []],
  ["a long text's head", [0x7a, 0xff, 0xff, 0xff, 0xff], []],
];

/** True when the message was decoded, false when it was refused; fails on any other error. */
function isTaken(decode: (bytes: Uint8Array) => unknown, bytes: Uint8Array): boolean {
  try {
    decode(bytes);
    return true;
  } catch (error) {
    ok(error instanceof MessageError, `${error} for ${hex(bytes)}`);
    return false;
  }
}

function refuses(sample: Sample, items: readonly number[][], what: string): void {
  const bytes = Uint8Array.from(array(items));
  strictEqual(isTaken(sample.decode, bytes), false, `${sample.name} ${what}: ${hex(bytes)}`);
}

function hex(bytes: Uint8Array): string {
  return [...bytes].map((octet) => octet.toString(16).padStart(2, "0")).join("");
}

Deno.test("every message is encoded as its CDDL says and comes back as it went", () => {
  for (const [index, { name, encoded, items, decode }] of SAMPLES.entries()) {
    const source = index === 0 ? BEAT : FRAMES[index - 1];
    deepStrictEqual(decode(Uint8Array.from(array(items))), source, name);
    deepStrictEqual(decode(encoded), source, name);
  }
});

Deno.test("a message cut short anywhere, or with an octet after it, is refused", () => {
  for (const { name, encoded, decode } of SAMPLES) {
    for (let length = 0; length < encoded.length; length++) {
      strictEqual(isTaken(decode, encoded.slice(0, length)), false, `${name} of ${length}`);
    }
    for (const octet of [0, 0x80, 0xff]) {
      strictEqual(isTaken(decode, Uint8Array.from([...encoded, octet])), false, name);
    }
  }
});

Deno.test("in every place every item that does not belong there is refused", () => {
  for (const sample of SAMPLES) {
    for (const [at, type] of sample.types.entries()) {
      for (const [what, octets, fits] of STRANGERS) {
        if (type === "fixed" && octets.join() === sample.items[at].join()) continue;
        const items = sample.items.with(at, octets);
        if (fits.includes(type)) ok(isTaken(sample.decode, Uint8Array.from(array(items))), what);
        else refuses(sample, items, `with ${what} at ${at}`);
      }
    }
  }
});

Deno.test("in every place of a service every item that does not belong there is refused", () => {
  for (const [at, type] of SERVICE_TYPES.entries()) {
    for (const [what, octets, fits] of STRANGERS) {
      const service = array(serviceItems(SERVICES[0]).with(at, octets));
      const items = BEAT_SAMPLE.items.with(7, array([service]));
      if (fits.includes(type)) decodeBeat(Uint8Array.from(array(items)));
      else refuses(BEAT_SAMPLE, items, `with ${what} at ${at} of a service`);
    }
  }
  for (const count of [0, 3, 5]) {
    const service = array([...serviceItems(SERVICES[0]), uint(0)].slice(0, count));
    refuses(BEAT_SAMPLE, BEAT_SAMPLE.items.with(7, array([service])), `${count} items`);
  }
});

Deno.test("an item more or less, another version and an unknown kind are refused", () => {
  for (const sample of SAMPLES) {
    refuses(sample, [...sample.items, uint(0)], "with an item more");
    refuses(sample, sample.items.slice(0, -1), "with an item less");
    refuses(sample, sample.items.with(0, uint(VERSION + 1)), "of another version");
  }
  for (let kind = FRAME_KINDS.length + 1; kind < 300; kind++) {
    const items = [uint(VERSION), uint(kind), uint(1)];
    refuses(SAMPLES[1], items, `of kind ${kind}`);
    refuses(BEAT_SAMPLE, items, `of kind ${kind}`);
  }
  throws(() => decodeFrame(BEAT_SAMPLE.encoded), MessageError);
  for (const { encoded } of SAMPLES.slice(1)) throws(() => decodeBeat(encoded), MessageError);
});

Deno.test("what cbor-x would revive, and what costs memory to decode, is refused unseen", () => {
  const revived = (octets: number[]) =>
    new Decoder({ useRecords: false }).decode(Uint8Array.from(octets)) as unknown;
  const named = (name: string) => STRANGERS.find(([what]) => what === name)?.[1] ?? [];
  ok(revived(named("a RegExp")) instanceof RegExp);
  ok(revived(named("an Error")) instanceof Error);
  ok(revived(named("a date")) instanceof Date);
  for (const [, octets] of STRANGERS) {
    const alone = Uint8Array.from(octets);
    for (const decode of [decodeFrame, decodeBeat]) strictEqual(isTaken(decode, alone), false);
  }
  // A head for each of 1000 arrays, as deep or as long as it can be said.
  for (const octet of [0x81, 0x98, 0x9a, 0x9b, 0xbf, 0x9f, 0xd8]) {
    const chain = new Uint8Array(ENVELOPE_MAX).fill(octet);
    for (const decode of [decodeFrame, decodeBeat]) strictEqual(isTaken(decode, chain), false);
  }
});

Deno.test("a frame longer than its limit is refused, and so is a beat", () => {
  for (const [decode, most] of [[decodeFrame, ENVELOPE_MAX], [decodeBeat, BEAT_MAX]] as const) {
    throws(() => decode(new Uint8Array(most + 1).fill(1)), {
      name: "MessageError",
      message: new RegExp(`its length is ${most + 1}$`),
    });
  }
  throws(() => decodeFrame(new Uint8Array(0)), MessageError);
});

Deno.test("a beat carries as many services with as long names as a configuration allows", () => {
  const services = Array.from({ length: LIMITS.services }, (_, i) => ({
    name: `${"n".repeat(29)}${String(i).padStart(3, "0")}`,
    role: ROLES[i % 4],
    epoch: 0xffffffff - i,
    ready: i % 2 === 0,
    asking: i % 3 === 0,
    voided: 0xffffffff - i,
    invites: i % 2 === 0,
    counted: 0xffffffff - i,
  }));
  const beat = { ...BEAT, node: "n".repeat(32), seq: 0xffffffff, echoSeq: 0xffffffff, services };
  const bytes = encodeBeat(beat);
  ok(bytes.length <= BEAT_MAX, `${bytes.length} octets`);
  deepStrictEqual(decodeBeat(bytes), beat);
});

Deno.test("a refusal in any language arrives, shortened to whole characters", () => {
  for (const why of ["", "é".repeat(40), "\u{1f41f}".repeat(20), `a${"\u6f22".repeat(30)}`]) {
    const frame = decodeFrame(encodeFrame({ kind: "refuse", why }));
    ok(frame.kind === "refuse");
    ok(why.startsWith(frame.why));
    const length = new TextEncoder().encode(frame.why).length;
    ok(frame.why === why || (length > 60 && length <= 64), `${length} octets of ${why}`);
  }
});

/** A message with a few octets changed, put in, taken out or doubled. */
function mutated(random: Random, bytes: Uint8Array): Uint8Array {
  const octets = [...bytes];
  for (let i = 1 + random.integer(4); i > 0; i--) {
    const at = random.integer(octets.length + 1);
    const piece = randomOctets(random, random.integer(4));
    octets.splice(at, random.integer(4), ...(random.next() < 0.3 ? octets.slice(at) : piece));
  }
  return Uint8Array.from(octets);
}

seededTest("random and damaged octets are refused, or mean what a message can mean", (random) => {
  let taken = 0;
  for (let i = 0; i < rounds(15000); i++) {
    const sample = pick(random, SAMPLES);
    const bytes = random.next() < 0.1
      ? randomOctets(random, random.integer(60))
      : mutated(random, sample.encoded);
    for (const decode of [decodeFrame, decodeBeat]) {
      if (!isTaken(decode, bytes)) continue;
      taken++;
      const message = decode(bytes);
      const again = message.kind === "beat" ? encodeBeat(message) : encodeFrame(message);
      deepStrictEqual(decode(again), message, hex(bytes));
    }
  }
  ok(taken > 0, "nothing was decoded");
});
