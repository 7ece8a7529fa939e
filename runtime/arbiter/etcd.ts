/**
 * etcd.ts - keep the registers in etcd, through the JSON gateway that it serves itself
 *
 * Theory of operation
 * A register is the key holdfast/CLUSTER/SERVICE; its value is the JSON of a RegisterValue. A claim
 * is decided here, by the rule of register.ts, on the value last known, and written in a transaction
 * that compares the key's mod_revision: so it is granted only if the value was still the one it was
 * decided on. Otherwise the transaction's answer is the newer value, on which it is decided again.
 *
 *   range ──> decide ──lost──> answer
 *     ^         │granted
 *     │         v
 *     └─ no ─ txn: if mod_revision = R then put ─ yes ──> answer
 *
 * What is known is kept between questions, so at a change of hands there is usually one round trip.
 * "Lost" and "granted already" are answered only from a value that this question has read.
 *
 * Endpoints are tried in turn, the one that answered last first. A transaction without an answer may
 * have been made; asking again then finds the claim as it is, and it is granted again.
 *
 * Limits: ANSWER_MS for a question with all endpoints and rounds; ROUNDS_MAX rounds; VALUE_MAX octets.
 * Sources: etcd 3.4 documentation, "API reference" and "Why gRPC gateway"; rpc.proto (KV.Range, KV.Txn).
 */

import type { ArbiterTimes } from "../protocol/replica.ts";
import {
  asRegisterValue,
  type Claim,
  decide,
  type Decision,
  type RegisterValue,
} from "../protocol/register.ts";
import type { Arbiter } from "./arbiter.ts";

const ANSWER_MS = 350;
/** Least time that one endpoint is given while there are others. */
const ENDPOINT_MS_MIN = 100;
const ROUNDS_MAX = 4;
const VALUE_MAX = 4096;
/** How often an idle cluster is asked, so that the status can say whether it is there. */
const PING_MS = 5000;

/** A register as etcd has it: revision "0" when there is none. */
interface Known {
  value: RegisterValue | null;
  revision: string;
}

/** Asks an etcd cluster. */
export class EtcdArbiter implements Arbiter {
  /** Always "etcd". */
  readonly kind = "etcd";
  /** The endpoints. */
  readonly where: string;
  /** See {@linkcode Arbiter.times}. */
  readonly times: ArbiterTimes = { answerMs: 1000, grantMs: 400, patienceMs: 0 };
  readonly #endpoints: string[];
  readonly #prefix: string;
  readonly #known = new Map<string, Known>();
  readonly #pinger: ReturnType<typeof setInterval>;
  readonly #closing = new AbortController();
  #reachable: boolean | null = null;

  /**
   * Begins to ask whether the cluster is there.
   *
   * @param endpoints URLs, "http://10.0.0.9:2379".
   * @param cluster Name of the cluster: a part of every key.
   */
  constructor(endpoints: readonly string[], cluster: string) {
    this.where = endpoints.join(", ");
    this.#endpoints = endpoints.map((url) => url.replace(/\/+$/, ""));
    this.#prefix = `holdfast/${cluster}/`;
    const ping = () => this.#range("").catch(() => {});
    this.#pinger = setInterval(ping, PING_MS);
    ping();
  }

  /** See {@linkcode Arbiter.reachable}. */
  get reachable(): boolean | null {
    return this.#reachable;
  }

  /** See {@linkcode Arbiter.claim}. */
  async claim(service: string, claim: Claim): Promise<Decision> {
    const deadlineMs = performance.now() + ANSWER_MS;
    let known = this.#known.get(service);
    let isFresh = false;
    for (let round = 0; round < ROUNDS_MAX; round++) {
      if (known === undefined) {
        known = await this.#range(service, deadlineMs);
        isFresh = true;
      }
      const decision = decide(known.value, claim);
      const isChange = decision.granted && decision.value !== known.value;
      if (!isChange) {
        if (isFresh) return decision;
        known = undefined;
        continue;
      }
      const written = await this.#put(service, { value: decision.value!, known, deadlineMs });
      if (written === null) return decision;
      known = written;
      isFresh = true;
    }
    throw new Error(`the register at ${this.where} changed ${ROUNDS_MAX} times while it was asked`);
  }

  /** See {@linkcode Arbiter.read}. */
  async read(service: string): Promise<RegisterValue | null> {
    return (await this.#range(service)).value;
  }

  /** See {@linkcode Arbiter.close}. */
  close(): void {
    clearInterval(this.#pinger);
    this.#closing.abort(new Error("closed"));
  }

  async #range(service: string, deadlineMs = performance.now() + ANSWER_MS): Promise<Known> {
    const key = encode(this.#prefix + service);
    const answer = await this.#post("/v3/kv/range", { key }, deadlineMs);
    return this.#remember(service, answer);
  }

  /** Writes if the register is still as `known`; null when it was, else what it is. */
  async #put(
    service: string,
    what: { value: RegisterValue; known: Known; deadlineMs: number },
  ): Promise<Known | null> {
    const { value, known, deadlineMs } = what;
    const key = encode(this.#prefix + service);
    this.#known.delete(service);
    const answer = await this.#post("/v3/kv/txn", {
      compare: [{ key, target: "MOD", result: "EQUAL", mod_revision: known.revision }],
      success: [{ request_put: { key, value: encode(JSON.stringify(value)) } }],
      failure: [{ request_range: { key } }],
    }, deadlineMs);
    if (answer.succeeded === true) {
      const { revision } = (answer.header ?? {}) as { revision?: unknown };
      if (typeof revision === "string") this.#known.set(service, { value, revision });
      return null;
    }
    const [response] = Array.isArray(answer.responses) ? answer.responses : [];
    return this.#remember(service, (response?.response_range ?? {}) as Record<string, unknown>);
  }

  /** The register in an answer to a range. */
  #remember(service: string, answer: Record<string, unknown>): Known {
    const [pair] = Array.isArray(answer.kvs) ? answer.kvs : [];
    let known: Known = { value: null, revision: "0" };
    if (pair !== undefined) {
      const value = decodeValue(pair.value);
      if (value === null || typeof pair.mod_revision !== "string") {
        throw new Error(`the key ${this.#prefix}${service} holds something that is not Holdfast's`);
      }
      known = { value, revision: pair.mod_revision };
    }
    if (service !== "") this.#known.set(service, known);
    return known;
  }

  /** Asks one endpoint after the other. */
  async #post(
    path: string,
    body: unknown,
    deadlineMs: number,
  ): Promise<Record<string, unknown>> {
    let trouble = "no endpoint was tried in time";
    for (let i = 0; i < this.#endpoints.length; i++) {
      const leftMs = deadlineMs - performance.now();
      if (leftMs <= 1) break;
      const others = this.#endpoints.length - 1 - i;
      const limitMs = Math.min(leftMs, Math.max(ENDPOINT_MS_MIN, leftMs / (others + 1)));
      const [endpoint] = this.#endpoints;
      try {
        const answer = await this.#postTo(endpoint + path, body, limitMs);
        this.#reachable = true;
        return answer;
      } catch (error) {
        trouble = `${endpoint}: ${(error as Error).message}`;
        this.#endpoints.push(this.#endpoints.shift()!);
      }
    }
    this.#reachable = false;
    throw new Error(`no answer from etcd at ${this.where}: ${trouble}`);
  }

  async #postTo(url: string, body: unknown, limitMs: number): Promise<Record<string, unknown>> {
    const late = AbortSignal.timeout(Math.ceil(limitMs));
    const response = await fetch(url, {
      method: "POST",
      body: JSON.stringify(body),
      signal: AbortSignal.any([late, this.#closing.signal]),
    });
    const answer: unknown = await response.json();
    if (typeof answer !== "object" || answer === null) throw new Error("the answer is no object");
    if (!response.ok) {
      const { message = response.statusText } = answer as { message?: unknown };
      throw new Error(`status ${response.status}: ${String(message).slice(0, 100)}`);
    }
    return answer as Record<string, unknown>;
  }
}

function encode(text: string): string {
  return btoa(text);
}

/** The value of a key, which is base64 of JSON; null when it is not one of ours. */
function decodeValue(raw: unknown): RegisterValue | null {
  if (typeof raw !== "string" || raw.length > VALUE_MAX) return null;
  try {
    return asRegisterValue(JSON.parse(atob(raw)));
  } catch {
    return null;
  }
}
