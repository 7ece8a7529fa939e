/**
 * witness_client.ts - ask a `holdfast witness`
 *
 * Theory of operation
 * One connection is kept open, so that a question costs one round trip when it matters; a ping every
 * PING_MS keeps it from idling out and tells whether the witness is there. A question that finds no
 * connection opens one. When the connection breaks before the answer, the question is asked once more
 * on a new one, which is safe: the same claim is granted again.
 *
 *   ask ──> connection? ──no──> connect ──> line out ──> line in ──> answer
 *
 * `connect` makes the byte stream: plain TCP here; a TLS stream does as well.
 *
 * Limits: ANSWER_MS for a question with all its attempts; WAITING_MAX questions at one time;
 * LINE_MAX octets of an answer.
 */

import { connect as connectTcp } from "node:net";
import type { Duplex } from "node:stream";
import { parseHostPort } from "../io/address.ts";
import type { ArbiterTimes } from "../protocol/replica.ts";
import {
  asRegisterValue,
  type Claim,
  type Decision,
  type RegisterValue,
} from "../protocol/register.ts";
import type { Arbiter } from "./arbiter.ts";

/** Until a question is given up, milliseconds: the machine believes no older grant. */
const ANSWER_MS = 350;
const PING_MS = 5000;
/** Between attempts to be connected while nothing is asked, milliseconds. */
const RECONNECT_MS = 1000;
const WAITING_MAX = 256;
const LINE_MAX = 4096;

/** Opens a byte stream to the witness; it may still be connecting. */
export type Connect = () => Duplex;

interface Waiting {
  line: string;
  resolve: (answer: Record<string, unknown>) => void;
  reject: (error: Error) => void;
  timer: ReturnType<typeof setTimeout>;
  attempts: number;
}

/** The client of one witness. */
export class WitnessClient implements Arbiter {
  /** Always "witness". */
  readonly kind = "witness";
  /** Address and port. */
  readonly where: string;
  /** See {@linkcode Arbiter.times}. */
  readonly times: ArbiterTimes = { answerMs: 1000, grantMs: 400, patienceMs: 0 };
  readonly #cluster: string;
  readonly #connect: Connect;
  readonly #waiting = new Map<number, Waiting>();
  readonly #pinger: ReturnType<typeof setInterval>;
  #stream: Duplex | null = null;
  #rest = "";
  #nextId = 1;
  #nextConnectMs = 0;
  #closed = false;
  #reachable: boolean | null = null;

  /**
   * Begins to connect.
   *
   * @param address "10.0.0.9:7950".
   * @param cluster Name of the cluster: the first part of every key.
   * @param options `connect` makes the stream, plain TCP if not given.
   */
  constructor(address: string, cluster: string, options: { connect?: Connect } = {}) {
    this.where = address;
    this.#cluster = cluster;
    const { address: ip, port } = parseHostPort(address);
    this.#connect = options.connect ??
      (() => connectTcp({ host: ip.text, port, noDelay: true, keepAlive: true }));
    this.#pinger = setInterval(() => this.#ping(), PING_MS);
    this.#ping();
  }

  /** See {@linkcode Arbiter.reachable}. */
  get reachable(): boolean | null {
    return this.#reachable;
  }

  /** See {@linkcode Arbiter.claim}. */
  async claim(service: string, claim: Claim): Promise<Decision> {
    const { expect, voids, epoch, owner, token, heirs } = claim;
    const answer = await this.#ask({
      op: "claim",
      key: this.#key(service),
      expect,
      voids,
      epoch,
      owner,
      token,
      heirs,
    });
    if (typeof answer.granted !== "boolean") throw new Error("the answer says nothing of a grant");
    return { granted: answer.granted, value: asRegisterValue(answer.value) };
  }

  /** See {@linkcode Arbiter.read}. */
  async read(service: string): Promise<RegisterValue | null> {
    return asRegisterValue((await this.#ask({ op: "read", key: this.#key(service) })).value);
  }

  /** See {@linkcode Arbiter.close}. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#pinger);
    this.#stream?.destroy();
    this.#failAll("closed");
  }

  #key(service: string): string {
    return `${this.#cluster}/${service}`;
  }

  #ask(question: Record<string, unknown>): Promise<Record<string, unknown>> {
    if (this.#closed) return Promise.reject(new Error("closed"));
    if (this.#waiting.size >= WAITING_MAX) {
      return Promise.reject(new Error(`${WAITING_MAX} questions wait already`));
    }
    const id = this.#nextId;
    this.#nextId = this.#nextId >= 0x7fffffff ? 1 : this.#nextId + 1;
    const { promise, resolve, reject } = Promise.withResolvers<Record<string, unknown>>();
    const timer = setTimeout(() => {
      this.#waiting.delete(id);
      this.#reachable = false;
      // Whatever stands there does not answer: the next question tries a new one.
      this.#stream?.destroy();
      reject(new Error(`no answer from the witness at ${this.where} within ${ANSWER_MS} ms`));
    }, ANSWER_MS);
    const line = JSON.stringify({ id, ...question }) + "\n";
    this.#waiting.set(id, { line, resolve, reject, timer, attempts: 1 });
    if (this.#stream === null) this.#open();
    else this.#stream.write(line);
    return promise;
  }

  #ping(): void {
    if (this.#stream === null && performance.now() < this.#nextConnectMs) return;
    this.#ask({ op: "ping" }).catch(() => {});
  }

  #open(): void {
    if (this.#closed) return;
    this.#nextConnectMs = performance.now() + RECONNECT_MS;
    const stream = this.#connect();
    this.#stream = stream;
    this.#rest = "";
    stream.on("data", (octets: Uint8Array) => this.#receive(stream, octets));
    stream.on("error", (error: Error) => this.#lost(stream, error.message));
    stream.on("close", () => this.#lost(stream, "the witness closed the connection"));
    // Streams keep what is written until they are connected.
    for (const { line } of this.#waiting.values()) stream.write(line);
  }

  /** The connection is gone: what waits is asked once more, on a new one. */
  #lost(stream: Duplex, why: string): void {
    if (this.#stream !== stream) return;
    this.#stream = null;
    this.#reachable = false;
    stream.destroy();
    for (const [id, waiting] of this.#waiting) {
      if (waiting.attempts++ < 2) continue;
      clearTimeout(waiting.timer);
      this.#waiting.delete(id);
      waiting.reject(new Error(`no answer from the witness at ${this.where}: ${why}`));
    }
    if (this.#waiting.size > 0) this.#open();
  }

  #receive(stream: Duplex, octets: Uint8Array): void {
    if (this.#stream !== stream) return;
    this.#rest += new TextDecoder("latin1").decode(octets);
    for (;;) {
      const end = this.#rest.indexOf("\n");
      if (end < 0) break;
      this.#answer(this.#rest.slice(0, end));
      this.#rest = this.#rest.slice(end + 1);
    }
    if (this.#rest.length > LINE_MAX) this.#lost(stream, `an answer exceeds ${LINE_MAX} octets`);
  }

  #answer(line: string): void {
    let raw: unknown;
    try {
      raw = JSON.parse(line);
    } catch {
      return;
    }
    if (typeof raw !== "object" || raw === null) return;
    const answer = raw as Record<string, unknown>;
    const waiting = this.#waiting.get(answer.id as number);
    if (waiting === undefined) return;
    this.#reachable = true;
    clearTimeout(waiting.timer);
    this.#waiting.delete(answer.id as number);
    if (answer.error === undefined) waiting.resolve(answer);
    else waiting.reject(new Error(`the witness at ${this.where} says: ${answer.error}`));
  }

  #failAll(why: string): void {
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new Error(why));
    }
    this.#waiting.clear();
  }
}
