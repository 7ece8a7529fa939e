/**
 * agreement.ts - how two replicas come to the same secret, and change it without a gap
 *
 * Theory of operation
 * Over each control connection (TLS, both sides proven) runs one such machine on each side. It has no
 * clock, socket or randomness: it takes messages, the time and octets of chance, and returns effects
 * to be performed in order, each one completed before the next. The side that opened the connection
 * proposes:
 *
 *   proposer                                       other side
 *     propose [id, its half] ────────────────────────> install
 *     install  <──────────────────── accept [id, its half]
 *     use (both can receive: no gap)
 *              use [id] ─────────────────────────────> use, keep only what both send with
 *     keep only  <─────────────────────────── used [id]
 *
 *   secret = HKDF(proposer's half, other half), so neither side alone chooses it
 *
 * Each side forgets older secrets only when the other has said that it sends with the new one, and
 * DRAIN_MS later, as what was sealed before may still be on its way. When the connection breaks in
 * between, both secrets stay, and the next connection begins anew. Renewal is the same again: after
 * `renewMs`, or when either side has sealed so much that it asks for it.
 *
 *   propose = [version, 16, id: u32, half: tstr]      half: 64 hexadecimal digits
 *   accept  = [version, 17, id: u32, half: tstr]
 *   use     = [version, 18, id: u32]
 *   used    = [version, 19, id: u32]
 *   renew   = [version, 20]                           to the proposer
 *   ping    = [version, 21]                           answered by nothing: hearing it is enough
 *
 * Limits: one proposal at a time, which has PROPOSAL_MS to be finished.
 */
import { derive, SECRET_LENGTH } from "./keyring.ts";
import {
  decodeItems,
  encodeItems,
  ENVELOPE_MAX,
  expectKind,
  MessageError,
  text,
  u32,
  VERSION,
} from "./message.ts";

/** How long octets that were sealed with an older secret may be on their way, milliseconds. */
export const DRAIN_MS = 5000;
/** How long an agreement may take, milliseconds. */
export const PROPOSAL_MS = 5000;

const Kind = { propose: 16, accept: 17, use: 18, used: 19, renew: 20, ping: 21 } as const;

/** A message on a control connection. */
export type ControlMessage =
  | { kind: "propose" | "accept"; id: number; half: string }
  | { kind: "use" | "used"; id: number }
  | { kind: "renew" }
  | { kind: "ping" };

/** What the caller has to do, in order; each is completed before the next. */
export type AgreementEffect =
  | { kind: "send"; message: ControlMessage }
  /** The secret, in hexadecimal digits, can be received with. */
  | { kind: "install"; id: number; secret: string }
  | { kind: "use"; id: number }
  | { kind: "keepOnly"; id: number }
  /** The connection is of no use: close it, and make another. */
  | { kind: "close"; why: string };

/** Encodes a message, without its length. */
export function encodeControl(message: ControlMessage): Uint8Array {
  const items: (number | string)[] = [VERSION, Kind[message.kind]];
  if ("id" in message) items.push(message.id);
  if ("half" in message) items.push(message.half);
  return encodeItems(items);
}

/**
 * Decodes a message.
 *
 * @throws {MessageError} When it is not exactly one well-formed message of our version.
 */
export function decodeControl(bytes: Uint8Array): ControlMessage {
  const items = decodeItems(bytes, ENVELOPE_MAX);
  switch (items[1]) {
    case Kind.propose:
    case Kind.accept: {
      expectKind(items, items[1], 4);
      const half = text(items[3], "half");
      if (!/^[0-9a-f]{64}$/.test(half)) {
        throw new MessageError("Cannot decode a message: half is not 64 hexadecimal digits");
      }
      const kind = items[1] === Kind.propose ? "propose" : "accept";
      return { kind, id: u32(items[2], "id"), half };
    }
    case Kind.use:
    case Kind.used:
      expectKind(items, items[1], 3);
      return { kind: items[1] === Kind.use ? "use" : "used", id: u32(items[2], "id") };
    case Kind.renew:
    case Kind.ping:
      expectKind(items, items[1], 2);
      return { kind: items[1] === Kind.renew ? "renew" : "ping" };
    default:
      throw new MessageError(`Cannot decode a message: its kind is ${items[1]}`);
  }
}

/** What the machine of one control connection is made with. */
export interface AgreementOptions {
  /** This side opened the connection. */
  proposes: boolean;
  /** A secret is renewed when it is that old, milliseconds. */
  renewMs: number;
  /** Gives 32 fresh random octets. */
  random: () => Uint8Array;
}

/** The machine of one side of one control connection. */
export class Agreement {
  readonly #options: AgreementOptions;
  /** The proposal under way, as this side knows it. */
  #open: { id: number; half: string; sinceMs: number } | null = null;
  /** Id that both have, or are about to, use. */
  #agreed: number | null = null;
  #renewAtMs = 0;
  #dropAtMs: number | null = null;

  /** Nothing is agreed yet. */
  constructor(options: AgreementOptions) {
    this.#options = options;
  }

  /** Id of the last secret that both sides send with; null before the first. */
  get agreed(): number | null {
    return this.#agreed;
  }

  /** Time passes; also to be called once at the start. */
  handleTime(nowMs: number): AgreementEffect[] {
    const effects: AgreementEffect[] = [];
    if (this.#dropAtMs !== null && nowMs >= this.#dropAtMs && this.#agreed !== null) {
      this.#dropAtMs = null;
      effects.push({ kind: "keepOnly", id: this.#agreed });
    }
    if (this.#open !== null) {
      if (nowMs - this.#open.sinceMs > PROPOSAL_MS) {
        effects.push({ kind: "close", why: `no agreement in ${PROPOSAL_MS} ms` });
      }
    } else if (this.#options.proposes && nowMs >= this.#renewAtMs) {
      effects.push(this.#propose(nowMs));
    }
    return effects;
  }

  /** The secret in use has sealed so much that it should be renewed. */
  handleWorn(nowMs: number): AgreementEffect[] {
    if (!this.#options.proposes) return [{ kind: "send", message: { kind: "renew" } }];
    if (this.#open !== null) return [];
    return [this.#propose(nowMs)];
  }

  #propose(nowMs: number): AgreementEffect {
    const half = this.#options.random();
    const id = new DataView(this.#options.random().slice().buffer).getUint32(0);
    this.#open = { id, half: half.toHex(), sinceMs: nowMs };
    return { kind: "send", message: { kind: "propose", id, half: this.#open.half } };
  }

  /** The other side said something. */
  handle(message: ControlMessage, nowMs: number): AgreementEffect[] {
    const { proposes } = this.#options;
    const outOfTurn: AgreementEffect[] = [{
      kind: "close",
      why: `${message.kind} out of turn`,
    }];
    switch (message.kind) {
      case "ping":
        return [];
      case "renew":
        if (!proposes) return outOfTurn;
        return this.#open === null ? [this.#propose(nowMs)] : [];
      case "propose": {
        if (proposes) return outOfTurn;
        const { id } = message;
        const half = this.#options.random().toHex();
        this.#open = { id, half, sinceMs: nowMs };
        const secret = combine(message.half, half, id);
        return [
          { kind: "install", id, secret },
          { kind: "send", message: { kind: "accept", id, half } },
        ];
      }
      case "accept": {
        if (!proposes || this.#open?.id !== message.id) return outOfTurn;
        const { id } = message;
        const secret = combine(this.#open.half, message.half, id);
        return [
          { kind: "install", id, secret },
          { kind: "use", id },
          { kind: "send", message: { kind: "use", id } },
        ];
      }
      case "use": {
        if (proposes || this.#open?.id !== message.id) return outOfTurn;
        const { id } = message;
        this.#finish(id, nowMs);
        return [{ kind: "use", id }, { kind: "send", message: { kind: "used", id } }];
      }
      case "used":
        if (!proposes || this.#open?.id !== message.id) return outOfTurn;
        this.#finish(message.id, nowMs);
        return [];
    }
  }

  #finish(id: number, nowMs: number): void {
    this.#open = null;
    this.#agreed = id;
    this.#renewAtMs = nowMs + this.#options.renewMs;
    this.#dropAtMs = nowMs + DRAIN_MS;
  }
}

/** The secret of two halves, in hexadecimal digits. */
function combine(proposed: string, accepted: string, id: number): string {
  const halves = new Uint8Array(2 * SECRET_LENGTH);
  halves.setFromHex(proposed);
  halves.subarray(SECRET_LENGTH).setFromHex(accepted);
  return derive(halves, `secret | ${id}`).toHex();
}
