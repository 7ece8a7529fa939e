/**
 * server.ts - what a witness says to those who ask
 *
 * Theory of operation
 * One line of JSON for each question and each answer, over any byte stream: `serveConnection()` takes
 * a Duplex, so a TLS socket does as well as a plain one. Answers come in the order of the questions.
 *
 *   {"id":1,"op":"claim","key":"a+b/web","expect":2,"voids":[],
 *    "epoch":3,"owner":"a","token":"9f3c"}     "heirs":["b"] too, of more than two replicas
 *   {"id":1,"granted":true,"value":{"epoch":3,"owner":"a","token":"9f3c"}}
 *   {"id":2,"op":"read","key":"a+b/web"}   ->  {"id":2,"value":{...}} or {"id":2,"value":null}
 *   {"id":3,"op":"ping"}                   ->  {"id":3}
 *   else                                   ->  {"id":...,"error":"..."}, and the connection is closed
 *
 * A claim is granted as register.ts says and answered when it is on the disk. When the disk fails, the
 * witness closes everything and ends: no answer is the only honest one.
 *
 * Limits: CONNECTIONS_MAX at one time, more are closed at once; LINE_MAX octets a line; IDLE_MS without
 * a question closes a connection; a client that takes no answers is closed at ANSWERS_MAX octets.
 */

import { createServer, type Server } from "node:net";
import type { Duplex } from "node:stream";
import type { Logger } from "../log.ts";
import { asVoids, type Claim, isEpoch, isHeirs, isWord, PEERS_MAX } from "../protocol/register.ts";
import { type RegisterStore, StoreError } from "./store.ts";

/** Connections at one time. */
export const CONNECTIONS_MAX = 1024;
/** Octets of one line, without its end. */
export const LINE_MAX = 4096;
/** A connection without a question for so long is closed, milliseconds. */
const IDLE_MS = 60_000;
/** Octets of answers that may wait for a client. */
const ANSWERS_MAX = 64 << 10;

/** A running witness. */
export interface Witness {
  /** Port it listens on. */
  readonly port: number;
  /** Resolves with the reason when the disk has failed. */
  readonly failed: Promise<string>;
  /** Closes all connections and stops listening. */
  close(): Promise<void>;
}

/**
 * Starts a witness.
 *
 * @param store Its registers; stays the caller's to close.
 * @param where Address and port to listen on.
 * @throws {Error} When it cannot listen there.
 */
export async function startWitness(
  store: RegisterStore,
  where: { address: string; port: number; log: Logger },
): Promise<Witness> {
  const { address, port, log } = where;
  const failed = Promise.withResolvers<string>();
  const open = new Set<Duplex>();
  const server = createServer({ noDelay: true, keepAlive: true }, (socket) => {
    if (open.size >= CONNECTIONS_MAX) {
      log.warn("connection refused", { why: `${CONNECTIONS_MAX} are open` });
      socket.destroy();
      return;
    }
    open.add(socket);
    socket.setTimeout(IDLE_MS, () => socket.destroy());
    socket.on("close", () => open.delete(socket));
    serveConnection(socket, { store, log, failed: failed.resolve });
  });
  await listen(server, { host: address, port });
  return {
    port: (server.address() as { port: number }).port,
    failed: failed.promise,
    close: () => {
      const { promise, resolve } = Promise.withResolvers<void>();
      server.close(() => resolve());
      for (const socket of open) socket.destroy();
      return promise;
    },
  };
}

function listen(server: Server, where: { host: string; port: number }): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen(where, () => {
    server.off("error", reject);
    resolve();
  });
  return promise;
}

/** What answering needs. */
export interface Surroundings {
  /** The registers. */
  store: RegisterStore;
  /** Where refusals are told. */
  log: Logger;
  /** Called when the disk has failed. */
  failed: (why: string) => void;
}

/** Answers the questions that come on `stream`, until it ends or something is wrong with them. */
export function serveConnection(stream: Duplex, around: Surroundings): void {
  const { store, log, failed } = around;
  let rest = "";
  // A peer that goes away is no event here: it asks again.
  stream.on("error", () => stream.destroy());
  stream.on("data", (octets: Uint8Array) => {
    if (stream.destroyed) return;
    rest += new TextDecoder("latin1").decode(octets);
    for (;;) {
      const end = rest.indexOf("\n");
      if (end > LINE_MAX || (end < 0 && rest.length > LINE_MAX)) {
        return refuse(null, `a line has more than ${LINE_MAX} octets`);
      }
      if (end < 0) return;
      const line = rest.slice(0, end);
      rest = rest.slice(end + 1);
      try {
        const answer = answerTo(line, store);
        stream.write(JSON.stringify(answer) + "\n");
      } catch (error) {
        if (store.broken !== null) {
          stream.destroy();
          failed(store.broken);
          return;
        }
        if (!(error instanceof QuestionError) && !(error instanceof StoreError)) throw error;
        return refuse(error instanceof QuestionError ? error.id : null, error.message);
      }
      if (stream.writableLength > ANSWERS_MAX) return stream.destroy();
    }
  });

  function refuse(id: number | null, why: string): void {
    log.warn("question refused", { why });
    stream.end(JSON.stringify({ id, error: why }) + "\n");
    stream.removeAllListeners("data");
    stream.resume();
  }
}

/** A question that is none. */
class QuestionError extends Error {
  /** Always "QuestionError". */
  override readonly name = "QuestionError";
  readonly id: number | null;

  constructor(id: number | null, why: string) {
    super(`Cannot answer: ${why}`);
    this.id = id;
  }
}

function answerTo(line: string, store: RegisterStore): Record<string, unknown> {
  let raw: unknown;
  try {
    raw = JSON.parse(line);
  } catch {
    throw new QuestionError(null, "the line is not JSON");
  }
  if (typeof raw !== "object" || raw === null || Array.isArray(raw)) {
    throw new QuestionError(null, "the line is no object");
  }
  const question = raw as Record<string, unknown>;
  const id = isEpoch(question.id) ? question.id : null;
  if (id === null) throw new QuestionError(null, "id is no number from 0 to 2^32 - 1");
  if (question.op === "ping") return { id };
  const { key } = question;
  if (!isKey(key)) {
    throw new QuestionError(id, "key is not 1 to 160 printable characters without a space");
  }
  switch (question.op) {
    case "read":
      return { id, value: store.read(key) };
    case "claim":
      return { id, ...store.claim(key, claimOf(id, question)) };
    default:
      throw new QuestionError(id, 'op is not "claim", "read" or "ping"');
  }
}

function claimOf(id: number, question: Record<string, unknown>): Claim {
  const { expect, epoch, owner, token, heirs } = question;
  if (!isEpoch(expect) || !isEpoch(epoch)) {
    throw new QuestionError(id, "expect or epoch is no number from 0 to 2^32 - 1");
  }
  if (!isWord(owner) || !isWord(token)) {
    throw new QuestionError(id, "owner or token is not 1 to 64 printable characters");
  }
  const voids = asVoids(question.voids);
  if (voids === null) throw new QuestionError(id, "voids is no list of tokens and epochs");
  if (heirs === undefined) return { expect, voids, epoch, owner, token };
  if (isHeirs(heirs)) return { expect, voids, epoch, owner, token, heirs };
  throw new QuestionError(id, `heirs is no list of at most ${PEERS_MAX} names`);
}

function isKey(value: unknown): value is string {
  return typeof value === "string" && /^[!-~]{1,160}$/.test(value);
}
