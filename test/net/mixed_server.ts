/**
 * mixed_server.ts - the server that the mixed client talks to: downloads, uploads, echo, half-close
 *
 * Theory of operation
 * A connection carries requests of one line each, one after the other. What a connection answers is
 * a function of what it was sent and of nothing else: no dates, no counters, no addresses, so that
 * two replicas say the same.
 *
 *   get NAME LENGTH       answers LENGTH octets of the stream NAME (pattern.ts)
 *   put LENGTH            takes LENGTH octets, answers their SHA-256 in hex and a line feed
 *   echo                  returns every octet until the client ends, then ends too
 *   fin KEY LENGTH NAME   answers LENGTH octets of the stream NAME and ends its direction; goes on
 *                         reading until the client ends, and keeps the hash of that as KEY
 *   pause MS              reads and writes nothing for so long
 *   hash KEY              answers the hash kept as KEY, waiting for it up to HASH_WAIT_MS
 *
 * Between requests a client may end its direction; the server then ends too. A request that is not
 * understood closes the connection.
 *
 * Limits: REQUEST_LENGTH_MAX octets in a line, HASHES_MAX kept hashes (the oldest goes first).
 *
 * Usage: deno run -A test/net/mixed_server.ts --port N [--host ADDRESS]
 */

import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import { sleep } from "./conditions.ts";
import { patternAt } from "./pattern.ts";

const REQUEST_LENGTH_MAX = 256;
const PIECE_LENGTH = 64 << 10;
const HASHES_MAX = 10_000;
const HASH_WAIT_MS = 20_000;
const HASH_POLL_MS = 10;

/** Hashes of what came after a `fin`, by key. */
const hashes = new Map<string, string>();

/** Buffered reading from one connection. */
class Reader {
  readonly #connection: Deno.TcpConn;
  readonly #buffer = new Uint8Array(PIECE_LENGTH);
  #start = 0;
  #end = 0;

  constructor(connection: Deno.TcpConn) {
    this.#connection = connection;
  }

  /** At most `limit` octets, none at the end; the next call overwrites them. */
  async read(limit = PIECE_LENGTH): Promise<Uint8Array> {
    if (this.#start === this.#end) {
      this.#start = 0;
      this.#end = await this.#connection.read(this.#buffer) ?? 0;
    }
    const start = this.#start;
    this.#start = Math.min(this.#end, start + limit);
    return this.#buffer.subarray(start, this.#start);
  }

  /** The next line, or undefined at the end. */
  async readLine(): Promise<string | undefined> {
    let line = "";
    while (line.length < REQUEST_LENGTH_MAX) {
      const [octet] = await this.read(1);
      if (octet === undefined) return undefined;
      if (octet === 10) return line;
      line += String.fromCharCode(octet);
    }
    throw new Error(`a request is longer than ${REQUEST_LENGTH_MAX} octets`);
  }
}

async function writeAll(connection: Deno.TcpConn, octets: Uint8Array): Promise<void> {
  for (let done = 0; done < octets.length;) done += await connection.write(octets.subarray(done));
}

async function writePattern(connection: Deno.TcpConn, name: number, length: number): Promise<void> {
  for (let done = 0; done < length; done += PIECE_LENGTH) {
    await writeAll(connection, patternAt(name, done, Math.min(PIECE_LENGTH, length - done)));
  }
}

async function takeHash(reader: Reader, length: number): Promise<string> {
  const hash = createHash("sha256");
  for (let left = length; left > 0;) {
    const octets = await reader.read(Math.min(left, PIECE_LENGTH));
    if (octets.length === 0) break;
    hash.update(octets);
    left -= octets.length;
  }
  return hash.digest("hex");
}

async function waitForHash(key: string): Promise<string> {
  for (let waitedMs = 0; waitedMs < HASH_WAIT_MS; waitedMs += HASH_POLL_MS) {
    const hash = hashes.get(key);
    if (hash !== undefined) return hash;
    await sleep(HASH_POLL_MS);
  }
  return "none";
}

/** Serves requests until the client ends or a request ends the connection. */
async function serve(connection: Deno.TcpConn): Promise<void> {
  const reader = new Reader(connection);
  const answer = (line: string) => writeAll(connection, new TextEncoder().encode(`${line}\n`));
  for (;;) { // ends with the client's direction
    const line = await reader.readLine();
    if (line === undefined) return;
    const [word, ...args] = line.split(" ");
    if (word === "get") await writePattern(connection, Number(args[0]), Number(args[1]));
    else if (word === "put") await answer(await takeHash(reader, Number(args[0])));
    else if (word === "pause") await sleep(Number(args[0]));
    else if (word === "hash") await answer(await waitForHash(args[0]));
    else if (word === "echo") {
      for (;;) { // ends with the client's direction
        const octets = await reader.read();
        if (octets.length === 0) return;
        await writeAll(connection, octets);
      }
    } else if (word === "fin") {
      const [key, length, name] = args;
      await writePattern(connection, Number(name), Number(length));
      await connection.closeWrite();
      keepHash(key, await takeHash(reader, Infinity));
      return;
    } else throw new Error(`a request is '${line}'`);
  }
}

function keepHash(key: string, hash: string): void {
  const [oldest] = hashes.keys();
  if (hashes.size >= HASHES_MAX) hashes.delete(oldest);
  hashes.set(key, hash);
}

/** A client that goes away is no news. */
function complain(error: unknown): void {
  const isGone = error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.BrokenPipe;
  if (!isGone) console.error(`connection ended: ${error}`);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { port: { type: "string" }, host: { type: "string", default: "::" } },
  });
  const port = Number(values.port);
  if (!(port > 0 && port < 65536)) throw new RangeError(`--port is '${values.port}', no port`);
  const listener = Deno.listen({ hostname: values.host, port });
  console.error(`mixed server at port ${port}`);
  for (;;) {
    let connection: Deno.TcpConn;
    try {
      connection = await listener.accept();
    } catch (error) {
      // Reset by its client before it was accepted: no reason for a server to die (accept(2)).
      if (error instanceof Deno.errors.NotConnected) continue;
      throw error;
    }
    connection.setNoDelay(true);
    serve(connection).catch(complain).finally(() => connection.close());
  }
}

if (import.meta.main) await main();
