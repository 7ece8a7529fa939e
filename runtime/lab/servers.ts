/**
 * servers.ts - the lab's own servers: what they say depends on what they were told, and on nothing else
 *
 * Theory of operation
 * A hot standby follows a server only when two copies of it answer alike. These do: no date, no
 * process id, no timeout, no order between connections. Every write is awaited, so a client that does
 * not read stops its server from producing.
 *
 *   file     HTTP/1.1: GET or HEAD /SIZE/SEED, the first SIZE octets of that seed's stream (content.ts).
 *            SIZE is a number of octets or like "64KiB", "1GiB". One byte range is honoured.
 *   upload   HTTP/1.1: PUT or POST of a body with Content-Length or in chunks; the answer is its SHA-256
 *            and length
 *   echo     TCP: sends back what it gets, and after the client's FIN the rest and its own FIN
 *   all      file on the port given, upload on the next one, echo on the one after
 *
 * There is no idle timeout on purpose: a client may be silent for as long as it likes. Limits: a request
 * head of HEAD_LENGTH_MAX octets; BUFFER_LENGTH octets for a connection while it transfers.
 *
 * Run it: deno run -A runtime/lab/servers.ts KIND --address ADDRESS --port PORT
 * Sources: RFC 9110 (methods, ranges 14.2, Expect 10.1.1), RFC 9112 (framing, chunks 7.1, persistence 9.3).
 */

import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import { parseSize } from "../config.ts";
import { CONTENT_LENGTH_MAX, fillContent } from "./content.ts";

/** What the servers can be. */
export const KINDS = ["file", "upload", "echo", "all"] as const;
/** One of them. */
export type ServerKind = typeof KINDS[number];

/** Ports of the kinds that `all` serves, relative to the first. */
export const PORT_OFFSETS = { file: 0, upload: 1, echo: 2 } as const;

const HEAD_LENGTH_MAX = 16 * 1024;
const BUFFER_LENGTH = 256 * 1024;
const ECHO_BUFFER_LENGTH = 64 * 1024;
/** Longest line that gives the length of a chunk. */
const CHUNK_LINE_LENGTH_MAX = 1024;
/** Wait after a connection could not be accepted (no descriptors left), milliseconds. */
const ACCEPT_RETRY_MS = 20;

/** Where a server listens. */
export interface ServeOptions {
  /** Address to bind. */
  address: string;
  /** TCP port, the first one for `all`. */
  port: number;
}

/**
 * Starts a server.
 *
 * @returns Its listeners; closing them stops it, connections in progress go on.
 * @throws {Deno.errors.AddrInUse} When a port is taken.
 */
export function serve(kind: ServerKind, options: ServeOptions): Deno.TcpListener[] {
  if (kind === "all") {
    const { address, port } = options;
    return Object.entries(PORT_OFFSETS).flatMap(([one, offset]) =>
      serve(one as ServerKind, { address, port: port + offset })
    );
  }
  const listener = Deno.listen({ hostname: options.address, port: options.port });
  acceptAll(listener, { file: serveFiles, upload: serveUploads, echo: serveEcho }[kind]);
  return [listener];
}

/**
 * Runs a server from the words of a command line.
 *
 * @param words "KIND --address ADDRESS --port PORT".
 * @returns Exit status 2 for words that are not understood; otherwise it serves until the process is ended.
 */
export async function serversMain(words: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: words,
    allowPositionals: true,
    options: { address: { type: "string" }, port: { type: "string", default: "80" } },
  });
  const kind = KINDS.find((kind) => kind === positionals[0]);
  const port = Number(values.port);
  const isPort = Number.isInteger(port) && port > 0 && port < 65536;
  if (kind === undefined || values.address === undefined || !isPort) {
    console.error(
      `Cannot serve "${words.join(" ")}": allowed is ${
        KINDS.join("|")
      } --address ADDRESS --port PORT`,
    );
    return 2;
  }
  serve(kind, { address: values.address, port });
  return await new Promise<number>(() => {});
}

async function acceptAll(
  listener: Deno.TcpListener,
  talk: (connection: Connection) => Promise<void>,
): Promise<void> {
  for (;;) {
    try {
      const connection = new Connection(await listener.accept());
      talk(connection).catch(ignoreDisconnection).finally(() => connection.close());
    } catch (error) {
      if (error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted) {
        return;
      }
      console.error(`Cannot accept a connection: ${error}`);
      await new Promise((resolve) => setTimeout(resolve, ACCEPT_RETRY_MS));
    }
  }
}

/** A client that goes away in the middle is none of our mistakes. */
function ignoreDisconnection(error: unknown): void {
  const isExpected = error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.BrokenPipe || error instanceof Deno.errors.UnexpectedEof ||
    error instanceof Deno.errors.NotConnected || error instanceof Deno.errors.TimedOut ||
    error instanceof Deno.errors.ConnectionAborted;
  if (!isExpected) console.error(error);
}

async function serveEcho(connection: Connection): Promise<void> {
  const buffer = new Uint8Array(ECHO_BUFFER_LENGTH);
  for (;;) {
    const piece = await connection.read(buffer);
    if (piece === null) break;
    await connection.write(piece);
  }
  await connection.closeWrite();
}

async function serveFiles(connection: Connection): Promise<void> {
  for (;;) {
    const request = await connection.readRequest();
    if (request === null) return;
    const hasBody = request.headers.has("content-length") ||
      request.headers.has("transfer-encoding");
    if (hasBody) return await refuse(connection, 413, "A request to this server has no body");
    if (request.method !== "GET" && request.method !== "HEAD") {
      await refuse(connection, 405, "Allowed are GET and HEAD");
      return;
    }
    const file = parseFile(request.path);
    const range = file && parseRange(request.headers.get("range"), file.octets);
    if (file === null) {
      await answer(connection, request, { status: 404, text: "Ask for /SIZE/SEED: /1GiB/7\n" });
    } else if (range === null) {
      const contentRange = `Content-Range: bytes */${file.octets}`;
      await answer(connection, request, { status: 416, text: "", headers: [contentRange] });
    } else {
      await sendFile(connection, request, { ...file, ...range! });
    }
    if (!request.isPersistent) return;
  }
}

interface FilePart {
  octets: number;
  seed: number;
  /** First octet sent, and the one after the last. */
  start: number;
  end: number;
}

async function sendFile(connection: Connection, request: Request, part: FilePart): Promise<void> {
  const { octets, seed, start, end } = part;
  const isPart = end - start !== octets;
  await connection.write(head(isPart ? 206 : 200, request, [
    `Content-Length: ${end - start}`,
    "Content-Type: application/octet-stream",
    "Accept-Ranges: bytes",
    ...(isPart ? [`Content-Range: bytes ${start}-${end - 1}/${octets}`] : []),
  ]));
  if (request.method === "HEAD") return;
  const buffer = new Uint8Array(Math.min(BUFFER_LENGTH, end - start));
  for (let offset = start; offset < end;) {
    const piece = buffer.subarray(0, Math.min(BUFFER_LENGTH, end - offset));
    fillContent(piece, offset, seed);
    await connection.write(piece);
    offset += piece.length;
  }
}

async function serveUploads(connection: Connection): Promise<void> {
  for (;;) {
    const request = await connection.readRequest();
    if (request === null) return;
    if (request.method !== "PUT" && request.method !== "POST") {
      await refuse(connection, 405, "Allowed are PUT and POST");
      return;
    }
    const isChunked = request.headers.get("transfer-encoding")?.toLowerCase() === "chunked";
    const length = Number(request.headers.get("content-length") ?? (isChunked ? 0 : NaN));
    if (!Number.isSafeInteger(length) || length < 0) {
      await refuse(connection, 411, "A body needs Content-Length, or Transfer-Encoding: chunked");
      return;
    }
    if (request.headers.get("expect")?.toLowerCase() === "100-continue") {
      await connection.write(encode("HTTP/1.1 100 Continue\r\n\r\n"));
    }
    const hash = createHash("sha256");
    let octets = 0;
    const take = (piece: Uint8Array) => {
      hash.update(piece);
      octets += piece.length;
    };
    if (isChunked) await connection.readChunks(take);
    else await connection.readBody(length, take);
    await answer(connection, request, { status: 200, text: `${hash.digest("hex")} ${octets}\n` });
    if (!request.isPersistent) return;
  }
}

/** The head of a request. */
interface Request {
  method: string;
  path: string;
  /** By name in lower case; of several with one name the last. */
  headers: Map<string, string>;
  /** Whether the connection stays open after the answer. */
  isPersistent: boolean;
}

/** Answers with a text. */
async function answer(
  connection: Connection,
  request: Request,
  response: { status: number; text: string; headers?: string[] },
): Promise<void> {
  const { status, text, headers = [] } = response;
  const fields = [
    `Content-Length: ${encode(text).length}`,
    "Content-Type: text/plain; charset=utf-8",
    ...headers,
  ];
  await connection.write(head(status, request, fields));
  if (request.method !== "HEAD") await connection.write(encode(text));
}

/** Answers what cannot be gone on from; the caller closes the connection. */
async function refuse(connection: Connection, status: number, why: string): Promise<void> {
  const request = { method: "GET", path: "", headers: new Map(), isPersistent: false };
  await answer(connection, request, { status, text: `${why}\n` });
}

const REASONS: Record<number, string> = {
  200: "OK",
  206: "Partial Content",
  400: "Bad Request",
  404: "Not Found",
  405: "Method Not Allowed",
  411: "Length Required",
  413: "Content Too Large",
  416: "Range Not Satisfiable",
  431: "Request Header Fields Too Large",
};

function head(status: number, { isPersistent }: Request, fields: string[]): Uint8Array {
  const lines = [
    `HTTP/1.1 ${status} ${REASONS[status]}`,
    "Server: holdfast-lab",
    `Connection: ${isPersistent ? "keep-alive" : "close"}`,
    ...fields,
  ];
  return encode(lines.join("\r\n") + "\r\n\r\n");
}

/** "/1GiB/7" in octets and seed; null when it is something else. */
function parseFile(path: string): { octets: number; seed: number } | null {
  const match = /^\/(\d{1,15}|\d[\d.]*[KMG]iB)\/(\d{1,10})$/.exec(path);
  if (match === null) return null;
  const octets = /^\d+$/.test(match[1]) ? Number(match[1]) : parseSize(match[1]);
  const seed = Number(match[2]);
  if (octets === null || octets > CONTENT_LENGTH_MAX || seed >= 2 ** 32) return null;
  return { octets, seed };
}

/**
 * One byte range; the whole when the header is absent or of a kind we need not know, null when
 * nothing of the file is in it.
 */
function parseRange(
  header: string | undefined,
  octets: number,
): { start: number; end: number } | null {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? "");
  if (match === null || match[1] + match[2] === "") return { start: 0, end: octets };
  const [, first, last] = match;
  if (first === "") {
    return Number(last) === 0 || octets === 0
      ? null
      : { start: Math.max(0, octets - Number(last)), end: octets };
  }
  const end = last === "" ? octets : Math.min(octets, Number(last) + 1);
  if (last !== "" && Number(last) < Number(first)) return { start: 0, end: octets };
  return Number(first) < octets ? { start: Number(first), end } : null;
}

/** A client's connection, read piece by piece. */
class Connection {
  readonly #connection: Deno.TcpConn;
  /** Octets that were read and not used yet: `#buffer` from `#start` to `#end`. */
  #buffer = new Uint8Array(0);
  #start = 0;
  #end = 0;

  constructor(connection: Deno.TcpConn) {
    this.#connection = connection;
    connection.setNoDelay();
  }

  /** Reads what there is into `buffer`; null at the client's FIN. */
  async read(buffer: Uint8Array): Promise<Uint8Array | null> {
    const length = await this.#connection.read(buffer);
    return length === null ? null : buffer.subarray(0, length);
  }

  /** Writes all of it. */
  async write(octets: Uint8Array): Promise<void> {
    for (let at = 0; at < octets.length;) {
      at += await this.#connection.write(at === 0 ? octets : octets.subarray(at));
    }
  }

  async closeWrite(): Promise<void> {
    await this.#connection.closeWrite();
  }

  close(): void {
    this.#connection.close();
  }

  /** The next request's head; null when the client has closed, or was refused. */
  async readRequest(): Promise<Request | null> {
    const text = await this.#readTo("\r\n\r\n", HEAD_LENGTH_MAX);
    if (text === null) return null;
    if (text === "") {
      await refuse(this, 431, `A request's head has at most ${HEAD_LENGTH_MAX} octets`);
      return null;
    }
    const [line, ...fields] = text.trimEnd().split("\r\n");
    const match = /^([A-Z]+) (\S+) HTTP\/1\.([01])$/.exec(line);
    if (match === null) {
      await refuse(this, 400, "That is not HTTP/1.1");
      return null;
    }
    const headers = new Map(fields.map((field) => {
      const colon = field.indexOf(":");
      return [field.slice(0, colon).toLowerCase(), field.slice(colon + 1).trim()];
    }));
    const wish = headers.get("connection")?.toLowerCase();
    const isPersistent = match[3] === "1" ? wish !== "close" : wish === "keep-alive";
    return { method: match[1], path: match[2], headers, isPersistent };
  }

  /** Hands the next `length` octets to `take`. */
  async readBody(length: number, take: (piece: Uint8Array) => void): Promise<void> {
    const known = Math.min(length, this.#end - this.#start);
    if (known > 0) take(this.#buffer.subarray(this.#start, this.#start + known));
    this.#start += known;
    const buffer = new Uint8Array(Math.min(BUFFER_LENGTH, length - known));
    for (let left = length - known; left > 0;) {
      const piece = await this.read(left < buffer.length ? buffer.subarray(0, left) : buffer);
      if (piece === null) {
        throw new Deno.errors.UnexpectedEof("Cannot read a body: the client ended");
      }
      take(piece);
      left -= piece.length;
    }
  }

  /** Hands the content of a chunked body to `take`. */
  async readChunks(take: (piece: Uint8Array) => void): Promise<void> {
    for (;;) {
      const line = await this.#readTo("\r\n", CHUNK_LINE_LENGTH_MAX);
      const length = parseInt(line ?? "", 16);
      if (!Number.isSafeInteger(length)) {
        throw new Deno.errors.UnexpectedEof(`Cannot read a chunk of length "${line}"`);
      }
      if (length === 0) break;
      await this.readBody(length, take);
      await this.#readTo("\r\n", CHUNK_LINE_LENGTH_MAX);
    }
    // Trailer fields up to an empty line.
    while ((await this.#readTo("\r\n", HEAD_LENGTH_MAX) ?? "\r\n") !== "\r\n");
  }

  /** Text up to and with `mark`; null at the end, empty when it is longer than `lengthMax`. */
  async #readTo(mark: string, lengthMax: number): Promise<string | null> {
    for (let known = 0;;) {
      const text = decode(this.#buffer.subarray(this.#start, this.#end));
      const at = text.indexOf(mark, Math.max(0, known - mark.length));
      if (at >= 0) {
        this.#start += at + mark.length;
        return text.slice(0, at + mark.length);
      }
      if (text.length >= lengthMax) return "";
      known = text.length;
      if (!await this.#readMore()) return null;
    }
  }

  async #readMore(): Promise<boolean> {
    if (this.#buffer.length === 0) this.#buffer = new Uint8Array(HEAD_LENGTH_MAX);
    this.#buffer.copyWithin(0, this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
    const piece = await this.read(this.#buffer.subarray(this.#end));
    this.#end += piece?.length ?? 0;
    return piece !== null;
  }
}

/** Octets as characters 0 to 255: lengths stay the same. */
function decode(octets: Uint8Array): string {
  return new TextDecoder("latin1").decode(octets);
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

if (import.meta.main) Deno.exit(await serversMain(Deno.args));
