/**
 * message.ts - what daemons say to each other
 *
 * Theory of operation
 * Two kinds of traffic run between replicas. Beats are datagrams, one CBOR item each, sent by the
 * data loop on every link at every heartbeat. Frames run over one TCP connection for each service,
 * opened by the standby:
 *
 *   frame    | envelope length u16be | envelope: one CBOR item | body: octets of core/records.ts |
 *
 * One frame carries all that one pass of the loop produced. Everything is a positional array,
 * version first (RFC 8949, CDDL of RFC 8610):
 *
 *   beat     = [version, 0, node: tstr, incarnation: u32, seq: u32,
 *               echoSeq: u32, echoDelayUs: u32, [* service]]
 *   service  = [name: tstr, role: 0..3, epoch: u32, ready: 0/1, asking: 0/1, voided: u32,
 *               invites: 0/1, counted: u32]
 *   hello    = [version, 1, node: tstr, service: tstr, epoch: u32, mtu: uint, logLimit: uint,
 *               capacity: uint, session: u32, keepsLogs: 0/1] ; standby, first frame
 *   welcome  = [version, 2, node: tstr, epoch: u32, mtu: uint, logLimit: uint, capacity: uint]
 *   data     = [version, 3, epoch: u32, seq: u32, committed: u32, bodyLength: uint, [* u32]]
 *                                                     ; last: committed by each further down the chain
 *   handover = [version, 4, epoch: u32, reason: tstr] ; old primary: go on in this epoch
 *   took     = [version, 5, epoch: u32]               ; new primary: the address is mine
 *   refuse   = [version, 6, why: tstr]
 *   resume   = [version, 7, node: tstr, service: tstr, epoch: u32, session: u32, applied: u32]
 *                                                     ; who said hello, first frame
 *   resumed  = [version, 8, epoch: u32, applied: u32]
 *   whole    = [version, 9, epoch: u32]               ; primary: you have been told of all connections
 *   chain    = [version, 10, [* [node: tstr, session: u32]]] ; who follows the sender, the nearest first
 *   lead     = [version, 11, epoch: u32]              ; down the chain: its head died, and I am the head now
 *   version  = 5
 *
 * Decoding trusts nothing: before cbor-x sees an item, a scan admits only unsigned integers, short
 * texts and arrays, to a depth and number that these messages need - so no tag, map, float or
 * indefinite length is ever revived - and afterwards every field is checked.
 */
import { Decoder, Encoder } from "cbor-x/index-no-eval";

/** Version of all messages. */
export const VERSION = 5;
/** Longest envelope of a frame, in octets. */
export const ENVELOPE_MAX = 1024;
/** Longest beat, in octets: as many services as a node may have, with the longest names, fit. */
export const BEAT_MAX = 4096;
/** Most services in a beat; the configuration allows no more. */
export const SERVICES_MAX = 64;
/** Most replicas that a message lists. */
const CHAIN_MAX = 8;
/** Longest text in a message, in octets. */
const TEXT_MAX = 64;
/** Most items in one message, arrays counted too: a beat of SERVICES_MAX services has 585. */
const ITEMS_MAX = 9 + 9 * SERVICES_MAX;
/** Deepest nesting: the message, the list of services, a service. */
const DEPTH_MAX = 3;

/** Kinds of messages; those of the control connection begin at 16 (agreement.ts). */
export const Kind = {
  beat: 0,
  hello: 1,
  welcome: 2,
  data: 3,
  handover: 4,
  took: 5,
  refuse: 6,
  resume: 7,
  resumed: 8,
  whole: 9,
  chain: 10,
  lead: 11,
} as const;

/** Roles in beats. */
export const ROLES = ["joining", "standby", "primary", "retired"] as const;
/** Role of a replica for one service (DESIGN section 8). */
export type Role = typeof ROLES[number];

/** What a beat says about one service. */
export interface BeatService {
  /** Its name. */
  name: string;
  /** The sender's role for it. */
  role: Role;
  /** Highest epoch the sender knows of. */
  epoch: number;
  /** A primary: has a standby that could take over now. A standby: could take over now. */
  ready: boolean;
  /** The sender is asking the arbiter for the right to speak. */
  asking: boolean;
  /** The sender's claims up to this epoch are void; see replica.ts. */
  voided: number;
  /** Who hears this follows the sender in the chain of replicas, or is to. */
  invites: boolean;
  /** The sender is primary, and who hears this may go on from what it was told this time; 0: it may not. */
  counted: number;
}

/** "I am alive", said by the loop that forwards. */
export interface Beat {
  /** Always "beat". */
  kind: "beat";
  /** Name of the sender. */
  node: string;
  /** Chosen anew at each start of the daemon. */
  incarnation: number;
  /** Counts the beats of this incarnation. */
  seq: number;
  /** Sequence number of the last beat heard on this link, and how long ago, in microseconds. */
  echoSeq: number;
  /** How long ago that was, microseconds. */
  echoDelayUs: number;
  /** What it says about each service. */
  services: BeatService[];
}

/** A message on the replication channel. */
export type Frame =
  | {
    kind: "hello";
    node: string;
    service: string;
    epoch: number;
    mtu: number;
    logLimit: number;
    capacity: number;
    /** Names the channel when it is resumed on another connection; 0 when it cannot be. */
    session: number;
    /** The sender keeps whole logs, whatever its mode; all replicas of a service do, or none. */
    keepsLogs: boolean;
  }
  | {
    kind: "welcome";
    node: string;
    epoch: number;
    mtu: number;
    logLimit: number;
    capacity: number;
  }
  | {
    kind: "data";
    epoch: number;
    seq: number;
    committed: number;
    bodyLength: number;
    /** What each one further down the chain has committed, the nearest first. */
    further: readonly number[];
  }
  | { kind: "handover"; epoch: number; reason: string }
  | { kind: "took"; epoch: number }
  | { kind: "refuse"; why: string }
  /** The channel goes on here; `applied` is the last message whose body was applied. */
  | {
    kind: "resume";
    node: string;
    service: string;
    epoch: number;
    session: number;
    applied: number;
  }
  | { kind: "resumed"; epoch: number; applied: number }
  /** The standby has been told of all connections that live. */
  | { kind: "whole"; epoch: number }
  | { kind: "chain"; names: { node: string; session: number }[] }
  | { kind: "lead"; epoch: number };

/** A message that is not one of ours: the sender is broken, old or hostile. */
export class MessageError extends Error {
  /** Always "MessageError". */
  override readonly name = "MessageError";
}

const encoder = new Encoder({ useRecords: false, tagUint8Array: false });
const decoder = new Decoder({ useRecords: false, mapsAsObjects: true, copyBuffers: true });

/** Encodes a beat. */
export function encodeBeat(beat: Beat): Uint8Array {
  return encoder.encode([
    VERSION,
    Kind.beat,
    beat.node,
    beat.incarnation,
    beat.seq,
    beat.echoSeq,
    beat.echoDelayUs,
    beat.services.map(({ name, role, epoch, ready, asking, voided, invites, counted }) => [
      name,
      ROLES.indexOf(role),
      epoch,
      ready ? 1 : 0,
      asking ? 1 : 0,
      voided,
      invites ? 1 : 0,
      counted,
    ]),
  ]);
}

/** Encodes the envelope of a frame, without its length. */
export function encodeFrame(frame: Frame): Uint8Array {
  switch (frame.kind) {
    case "hello":
      return encoder.encode([
        VERSION,
        Kind.hello,
        frame.node,
        frame.service,
        frame.epoch,
        frame.mtu,
        frame.logLimit,
        frame.capacity,
        frame.session,
        frame.keepsLogs ? 1 : 0,
      ]);
    case "welcome":
      return encoder.encode([
        VERSION,
        Kind.welcome,
        frame.node,
        frame.epoch,
        frame.mtu,
        frame.logLimit,
        frame.capacity,
      ]);
    case "data":
      return encoder.encode([
        VERSION,
        Kind.data,
        frame.epoch,
        frame.seq,
        frame.committed,
        frame.bodyLength,
        frame.further,
      ]);
    case "handover":
      return encoder.encode([VERSION, Kind.handover, frame.epoch, frame.reason]);
    case "took":
      return encoder.encode([VERSION, Kind.took, frame.epoch]);
    case "refuse":
      return encoder.encode([VERSION, Kind.refuse, shortened(frame.why)]);
    case "resume":
      return encoder.encode([
        VERSION,
        Kind.resume,
        frame.node,
        frame.service,
        frame.epoch,
        frame.session,
        frame.applied,
      ]);
    case "chain":
      return encoder.encode([
        VERSION,
        Kind.chain,
        frame.names.map(({ node, session }) => [node, session]),
      ]);
    case "lead":
      return encoder.encode([VERSION, Kind.lead, frame.epoch]);
    case "resumed":
      return encoder.encode([VERSION, Kind.resumed, frame.epoch, frame.applied]);
    case "whole":
      return encoder.encode([VERSION, Kind.whole, frame.epoch]);
  }
}

/** As much of a text as a message may hold: whole characters of at most TEXT_MAX octets. */
function shortened(why: string): string {
  const { read } = new TextEncoder().encodeInto(why, new Uint8Array(TEXT_MAX));
  return why.slice(0, read);
}

/**
 * Decodes a beat.
 *
 * @throws {MessageError} When it is not exactly one well-formed beat of our version.
 */
export function decodeBeat(bytes: Uint8Array): Beat {
  const items = decodeItems(bytes, BEAT_MAX);
  expectKind(items, Kind.beat, 8);
  const list = items[7];
  if (!Array.isArray(list)) throw new MessageError("Cannot decode a beat: services is no array");
  return {
    kind: "beat",
    node: text(items[2], "node"),
    incarnation: u32(items[3], "incarnation"),
    seq: u32(items[4], "seq"),
    echoSeq: u32(items[5], "echoSeq"),
    echoDelayUs: u32(items[6], "echoDelayUs"),
    services: list.map((entry) => {
      if (!Array.isArray(entry) || entry.length !== 8) {
        throw new MessageError("Cannot decode a beat: a service is no array of 8");
      }
      const role = ROLES[uint(entry[1], "role")];
      if (role === undefined) throw new MessageError(`Cannot decode a beat: role is ${entry[1]}`);
      return {
        name: text(entry[0], "service"),
        role,
        epoch: u32(entry[2], "epoch"),
        ready: bit(entry[3], "ready"),
        asking: bit(entry[4], "asking"),
        voided: u32(entry[5], "voided"),
        invites: bit(entry[6], "invites"),
        counted: u32(entry[7], "counted"),
      };
    }),
  };
}

/**
 * Decodes an envelope.
 *
 * @throws {MessageError} When it is not exactly one well-formed frame of our version.
 */
export function decodeFrame(bytes: Uint8Array): Frame {
  const items = decodeItems(bytes, ENVELOPE_MAX);
  switch (items[1]) {
    case Kind.data:
      expectKind(items, Kind.data, 7);
      return {
        kind: "data",
        epoch: u32(items[2], "epoch"),
        seq: u32(items[3], "seq"),
        committed: u32(items[4], "committed"),
        bodyLength: u32(items[5], "bodyLength"),
        further: list(items[6], "further").map((seq) => u32(seq, "further")),
      };
    case Kind.hello:
      expectKind(items, Kind.hello, 10);
      return {
        kind: "hello",
        node: text(items[2], "node"),
        service: text(items[3], "service"),
        epoch: u32(items[4], "epoch"),
        mtu: u32(items[5], "mtu"),
        logLimit: u32(items[6], "logLimit"),
        capacity: u32(items[7], "capacity"),
        session: u32(items[8], "session"),
        keepsLogs: bit(items[9], "keepsLogs"),
      };
    case Kind.welcome:
      expectKind(items, Kind.welcome, 7);
      return {
        kind: "welcome",
        node: text(items[2], "node"),
        epoch: u32(items[3], "epoch"),
        mtu: u32(items[4], "mtu"),
        logLimit: u32(items[5], "logLimit"),
        capacity: u32(items[6], "capacity"),
      };
    case Kind.handover:
      expectKind(items, Kind.handover, 4);
      return {
        kind: "handover",
        epoch: u32(items[2], "epoch"),
        reason: text(items[3], "reason"),
      };
    case Kind.took:
      expectKind(items, Kind.took, 3);
      return { kind: "took", epoch: u32(items[2], "epoch") };
    case Kind.refuse:
      expectKind(items, Kind.refuse, 3);
      return { kind: "refuse", why: text(items[2], "why") };
    case Kind.resume:
      expectKind(items, Kind.resume, 7);
      return {
        kind: "resume",
        node: text(items[2], "node"),
        service: text(items[3], "service"),
        epoch: u32(items[4], "epoch"),
        session: u32(items[5], "session"),
        applied: u32(items[6], "applied"),
      };
    case Kind.resumed:
      expectKind(items, Kind.resumed, 4);
      return {
        kind: "resumed",
        epoch: u32(items[2], "epoch"),
        applied: u32(items[3], "applied"),
      };
    case Kind.whole:
      expectKind(items, Kind.whole, 3);
      return { kind: "whole", epoch: u32(items[2], "epoch") };
    case Kind.chain:
      expectKind(items, Kind.chain, 3);
      return {
        kind: "chain",
        names: list(items[2], "names").map((name) => {
          const [node, session] = list(name, "name");
          return { node: text(node, "node"), session: u32(session, "session") };
        }),
      };
    case Kind.lead:
      expectKind(items, Kind.lead, 3);
      return { kind: "lead", epoch: u32(items[2], "epoch") };
    default:
      throw new MessageError(`Cannot decode a frame: its kind is ${items[1]}`);
  }
}

/** Encodes a message of other kinds than the above, for decodeItems(). */
export function encodeItems(items: (number | string)[]): Uint8Array {
  return encoder.encode(items);
}

/**
 * One item after the scan; always an array, of our version.
 *
 * @throws {MessageError} When it is anything else.
 */
export function decodeItems(bytes: Uint8Array, most: number): unknown[] {
  const trouble = scan(bytes, most);
  if (trouble !== null) throw new MessageError(`Cannot decode a message: ${trouble}`);
  let items: unknown;
  try {
    items = decoder.decode(bytes);
  } catch (error) {
    throw new MessageError(`Cannot decode a message: ${(error as Error).message}`);
  }
  if (!Array.isArray(items)) throw new MessageError("Cannot decode a message: it is no array");
  if (items[0] !== VERSION) {
    throw new MessageError(`Cannot decode a message: its version is ${items[0]}, not ${VERSION}`);
  }
  return items;
}

/** What is wrong with an item of RFC 8949, or null when it is plain enough to be decoded. */
function scan(bytes: Uint8Array, most: number): string | null {
  if (bytes.length === 0 || bytes.length > most) return `its length is ${bytes.length}`;
  let at = 0;
  let items = 0;
  /** Items still expected at each depth. */
  const expected = [1];
  while (expected.length > 0) {
    if (expected[expected.length - 1] === 0) {
      expected.pop();
      continue;
    }
    expected[expected.length - 1]--;
    if (++items > ITEMS_MAX) return "it has too many items";
    if (at >= bytes.length) return "it is cut short";
    const major = bytes[at] >> 5;
    const info = bytes[at] & 31;
    at++;
    let value = info;
    if (info >= 24) {
      if (info > 27) return "it has an indefinite length";
      const width = 1 << (info - 24);
      if (at + width > bytes.length) return "it is cut short";
      value = 0;
      for (let i = 0; i < width; i++) value = value * 256 + bytes[at++];
    }
    if (major === 0) continue;
    if (major === 3) {
      if (value > TEXT_MAX) return "a text is too long";
      if (at + value > bytes.length) return "it is cut short";
      at += value;
    } else if (major === 4) {
      if (expected.length > DEPTH_MAX) return "it is nested too deeply";
      if (value > ITEMS_MAX) return "it has too many items";
      expected.push(value);
    } else return `it holds major type ${major}`;
  }
  return at === bytes.length ? null : "octets follow it";
}

/**
 * Refuses a message of another kind or length.
 *
 * @throws {MessageError} Naming both.
 */
export function expectKind(items: unknown[], kind: unknown, length: number): void {
  if (items[1] !== kind || items.length !== length) {
    throw new MessageError(
      `Cannot decode a message of kind ${items[1]} with ${items.length} items`,
    );
  }
}

/**
 * A field that must be a text.
 *
 * @throws {MessageError} When it is not.
 */
export function text(value: unknown, field: string): string {
  // cbor-x puts U+FFFD in the place of octets that are no UTF-8 (RFC 8949 section 3.1 forbids them).
  if (typeof value === "string" && !value.includes("\ufffd")) return value;
  throw new MessageError(`Cannot decode a message: ${field} is no text`);
}

/** A field that must be a list of at most CHAIN_MAX items. */
function list(value: unknown, field: string): unknown[] {
  if (Array.isArray(value) && value.length <= CHAIN_MAX) return value;
  throw new MessageError(`Cannot decode a message: ${field} is no list of at most ${CHAIN_MAX}`);
}

function uint(value: unknown, field: string): number {
  // cbor-x gives a bigint only past 2^53, which no field of ours means.
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
  throw new MessageError(`Cannot decode a message: ${field} is no unsigned integer`);
}

function bit(value: unknown, field: string): boolean {
  if (value === 0 || value === 1) return value === 1;
  throw new MessageError(`Cannot decode a message: ${field} is neither 0 nor 1`);
}

/**
 * A field that must be a number below 2^32.
 *
 * @throws {MessageError} When it is not.
 */
export function u32(value: unknown, field: string): number {
  const number = uint(value, field);
  if (number <= 0xffffffff) return number;
  throw new MessageError(`Cannot decode a message: ${field} is ${number}, above 2^32 - 1`);
}
