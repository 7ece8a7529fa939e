/**
 * client.ts - the demo's client: an ordinary TCP client that notes what it sees
 *
 * Theory of operation
 * It transfers OCTETS octets of a known stream (content.ts) and says on standard output, one JSON
 * document a line, how far it is and at the end what it saw. It knows nothing of Holdfast, and there is
 * one connection: what goes wrong on it is not tried again.
 *
 *   file     GET from a file server; hashes what arrives, up to the server's FIN
 *   upload   PUT to an upload server; progress is what the kernel has taken, the hash is the server's answer
 *   echo     sends to an echo server and hashes what comes back, both at once, FIN by both sides
 *
 * The expected hash is computed afterwards, so that it takes no time from the transfer. Nothing that
 * moves for STALL_MS is given up.
 *
 * Run it: deno run -A runtime/lab/client.ts KIND --address ADDRESS --port PORT --octets N --seed N
 */

import { createHash, type Hash } from "node:crypto";
import { parseArgs } from "node:util";
import { contentSha256, fillContent } from "./content.ts";
import { BIN_MS, Recorder, type Recording } from "./recorder.ts";

/** What the client can do. */
export const CLIENT_KINDS = ["file", "upload", "echo"] as const;
/** One of them. */
export type ClientKind = typeof CLIENT_KINDS[number];

/** A line on standard output while the transfer runs. */
export interface ClientProgress {
  /** Marks the kind of line. */
  event: "progress";
  /** Octets so far. */
  octets: number;
  /** Octets in each bin that is complete and was not told before. */
  bins: number[];
}

/** The last line on standard output. */
export interface ClientResult extends Recording {
  /** Marks the kind of line. */
  event: "result";
  /** Width of a bin, milliseconds. */
  binMs: number;
  /** Octets that should have come. */
  octetsExpected: number;
  /** SHA-256 of what came, in hex; null when it did not come to that. */
  sha256: string | null;
  /** What it should be. */
  sha256Expected: string;
  /** What went wrong on the connection; null when nothing did. */
  error: string | null;
  /** Whether all went as on one healthy server. */
  ok: boolean;
}

/** Which transfer. */
export interface ClientOptions {
  /** The server's address. */
  address: string;
  /** The server's port. */
  port: number;
  /** Length of the stream. */
  octets: number;
  /** Seed of the stream. */
  seed: number;
}

const BUFFER_LENGTH = 256 * 1024;
/** Octets given to the kernel at a time, so that progress is seen in steps. */
const WRITE_LENGTH = 64 * 1024;
const RESPONSE_HEAD_LENGTH_MAX = 16 * 1024;
const CONNECT_TIMEOUT_MS = 15_000;
const STALL_MS = 30_000;
const PROGRESS_MS = 20;

/**
 * Makes one transfer.
 *
 * @param tell Gets the progress every 20 ms.
 * @returns What was seen; errors of the connection are part of it.
 */
export async function transfer(
  kind: ClientKind,
  options: ClientOptions,
  tell: (progress: ClientProgress) => void,
): Promise<ClientResult> {
  const recorder = new Recorder();
  let sha256: string | null = null;
  let error: string | null = null;
  let connection: Deno.TcpConn | null = null;
  let told = 0;
  const timer = setInterval(() => {
    const { bins, octets, startMs } = recorder.recording();
    const complete = Math.floor((performance.timeOrigin + performance.now() - startMs) / BIN_MS);
    const news = Array.from(
      { length: Math.max(0, complete - told) },
      (_, i) => bins[told + i] ?? 0,
    );
    told += news.length;
    tell({ event: "progress", octets, bins: news });
    if (performance.timeOrigin + performance.now() - recorder.lastMs < STALL_MS) return;
    error ??= `Nothing moved for ${STALL_MS} ms`;
    closeQuietly(connection);
  }, PROGRESS_MS);
  try {
    connection = await Deno.connect({
      hostname: options.address,
      port: options.port,
      signal: AbortSignal.timeout(CONNECT_TIMEOUT_MS),
    });
    sha256 = await TRANSFERS[kind](connection, options, recorder);
  } catch (thrown) {
    error ??= String(thrown);
    recorder.note(0);
  } finally {
    clearInterval(timer);
    closeQuietly(connection);
  }
  const sha256Expected = await contentSha256(options.octets, options.seed);
  return {
    event: "result",
    ...recorder.recording(),
    binMs: BIN_MS,
    octetsExpected: options.octets,
    sha256,
    sha256Expected,
    error,
    ok: error === null && recorder.octets === options.octets && sha256 === sha256Expected,
  };
}

type Transfer = (
  connection: Deno.TcpConn,
  options: ClientOptions,
  recorder: Recorder,
) => Promise<string>;

const TRANSFERS: Record<ClientKind, Transfer> = { file: download, upload, echo };

async function download(
  connection: Deno.TcpConn,
  options: ClientOptions,
  recorder: Recorder,
): Promise<string> {
  const { address, octets, seed } = options;
  const request = `GET /${octets}/${seed} HTTP/1.1\r\nHost: ${hostOf(address)}\r\n` +
    "Connection: close\r\n\r\n";
  await write(connection, new TextEncoder().encode(request));
  const hash = createHash("sha256");
  const { head, rest } = await readHead(connection);
  if (!head.startsWith("HTTP/1.1 200 ")) {
    throw new Error(`The server says ${head.split("\r\n")[0]}`);
  }
  hash.update(rest);
  recorder.note(rest.length);
  await readToEnd(connection, hash, recorder);
  return hash.digest("hex");
}

async function upload(
  connection: Deno.TcpConn,
  options: ClientOptions,
  recorder: Recorder,
): Promise<string> {
  const { address, octets } = options;
  const request = `PUT /${options.seed} HTTP/1.1\r\nHost: ${hostOf(address)}\r\n` +
    `Content-Length: ${octets}\r\nConnection: close\r\n\r\n`;
  await write(connection, new TextEncoder().encode(request));
  await send(connection, options, (length) => recorder.note(length));
  const { head, rest } = await readHead(connection);
  const chunks = [rest];
  let length = rest.length;
  const buffer = new Uint8Array(RESPONSE_HEAD_LENGTH_MAX);
  for (;;) {
    const count = await connection.read(buffer);
    if (count === null || (length += count) > RESPONSE_HEAD_LENGTH_MAX) break;
    chunks.push(buffer.slice(0, count));
  }
  recorder.note(0);
  const text = new TextDecoder().decode(await new Blob(chunks).bytes());
  const match = /^([0-9a-f]{64}) (\d+)\n$/.exec(text);
  if (match === null || Number(match[2]) !== octets) {
    throw new Error(`The server says ${head.split("\r\n")[0]}: ${text}`);
  }
  return match[1];
}

async function echo(
  connection: Deno.TcpConn,
  options: ClientOptions,
  recorder: Recorder,
): Promise<string> {
  const hash = createHash("sha256");
  const sent = send(connection, options, () => {}).then(() => connection.closeWrite());
  await Promise.all([sent, readToEnd(connection, hash, recorder)]);
  return hash.digest("hex");
}

/** Sends the whole stream. */
async function send(
  connection: Deno.TcpConn,
  { octets, seed }: ClientOptions,
  note: (octets: number) => void,
): Promise<void> {
  const buffer = new Uint8Array(WRITE_LENGTH);
  for (let offset = 0; offset < octets; offset += WRITE_LENGTH) {
    const piece = buffer.subarray(0, Math.min(WRITE_LENGTH, octets - offset));
    fillContent(piece, offset, seed);
    await write(connection, piece);
    note(piece.length);
  }
}

/** Hashes and notes everything up to the server's FIN. */
async function readToEnd(
  connection: Deno.TcpConn,
  hash: Hash,
  recorder: Recorder,
): Promise<void> {
  const buffer = new Uint8Array(BUFFER_LENGTH);
  for (;;) {
    const count = await connection.read(buffer);
    recorder.note(count ?? 0);
    if (count === null) return;
    hash.update(buffer.subarray(0, count));
  }
}

/** The head of a response, and what of the body came with it. */
async function readHead(
  connection: Deno.TcpConn,
): Promise<{ head: string; rest: Uint8Array<ArrayBuffer> }> {
  const buffer = new Uint8Array(RESPONSE_HEAD_LENGTH_MAX);
  for (let length = 0; length < buffer.length;) {
    const count = await connection.read(buffer.subarray(length));
    if (count === null) throw new Error("The server ended the connection without an answer");
    length += count;
    const text = new TextDecoder("latin1").decode(buffer.subarray(0, length));
    const end = text.indexOf("\r\n\r\n");
    if (end >= 0) return { head: text.slice(0, end), rest: buffer.slice(end + 4, length) };
  }
  throw new Error(`The server's head has more than ${RESPONSE_HEAD_LENGTH_MAX} octets`);
}

async function write(connection: Deno.TcpConn, octets: Uint8Array): Promise<void> {
  for (let at = 0; at < octets.length;) at += await connection.write(octets.subarray(at));
}

function closeQuietly(connection: Deno.TcpConn | null): void {
  try {
    connection?.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

function hostOf(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}

/**
 * Runs a client from the words of a command line.
 *
 * @returns Exit status 0 when all went well, 1 when not, 2 for words that are not understood.
 */
export async function clientMain(words: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: words,
    allowPositionals: true,
    options: {
      address: { type: "string" },
      port: { type: "string" },
      octets: { type: "string" },
      seed: { type: "string" },
    },
  });
  const kind = CLIENT_KINDS.find((kind) => kind === positionals[0]);
  const [port, octets, seed] = [values.port, values.octets, values.seed].map(Number);
  if (kind === undefined || values.address === undefined || Number.isNaN(port + octets + seed)) {
    console.error(
      `Cannot run a client with "${words.join(" ")}": allowed is ${CLIENT_KINDS.join("|")} ` +
        "--address ADDRESS --port PORT --octets N --seed N",
    );
    return 2;
  }
  const tell = (line: ClientProgress | ClientResult) => console.log(JSON.stringify(line));
  const result = await transfer(kind, { address: values.address, port, octets, seed }, tell);
  tell(result);
  return result.ok ? 0 : 1;
}

if (import.meta.main) Deno.exit(await clientMain(Deno.args));
