/**
 * http_twin.ts - HTTP/1.1 as plain text: the twin of core/stream/http_message.ts, and messages to try both with
 *
 * The core goes octet by octet and remembers a few numbers. The twin has the whole text, cuts it into lines and
 * matches each with an expression. Both must find the same end, or none.
 */
import type { Random } from "../net/random.ts";
import { pick } from "./seeded.ts";

/** Where a message ends: its length, or that it cannot be told for sure, or that there is more to come. */
export type End = number | "lost" | "more";

/** What is known of a response's request; null for a request. */
export type Of = { isHead: boolean } | null;

const REQUEST = /^(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH) [\x21-\x7e\x80-\xff]+ HTTP\/1\.1$/;
const STATUS = /^HTTP\/1\.1 ([1-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?$/;
const FIELD = /^([a-z0-9._-]+):([\t\x20-\x7e\x80-\xff]*)$/i;

/** Where the message that `text` (latin1) begins with ends. */
export function messageEnd(text: string, of: Of): End {
  const lines = linesOf(text, 0);
  if (lines === "more" || lines === "lost") return lines;
  const [start, ...fields] = lines.lines;
  const status = of === null ? null : STATUS.exec(start);
  if (of === null ? !REQUEST.test(start) : status === null) return "lost";
  const code = Number(status?.[1] ?? 0);
  if (code === 101) return "lost";
  const framing = framingOf(fields);
  if (framing === null) return "lost";
  const { length, isChunked } = framing;
  const { end } = lines;
  const isEmpty = code === 204 || (code >= 100 && code < 200);
  if (isEmpty) return isChunked || (length ?? 0) > 0 ? "lost" : end;
  if (code === 304 || of?.isHead === true) return end;
  if (isChunked) return chunksEnd(text, end);
  if (length === null) return of === null ? end : "lost";
  return text.length < end + length ? "more" : end + length;
}

/** The lines up to the empty one. */
function linesOf(text: string, at: number): { lines: string[]; end: number } | "more" | "lost" {
  const lines: string[] = [];
  for (;;) {
    const end = text.indexOf("\n", at);
    if (end < 0) return "more";
    if (text[end - 1] !== "\r" || end === at) return "lost";
    const line = text.slice(at, end - 1);
    at = end + 1;
    if (line === "" && lines.length > 0) return { lines, end: at };
    lines.push(line);
  }
}

function framingOf(fields: string[]): { length: number | null; isChunked: boolean } | null {
  let length: number | null = null;
  let isChunked = false;
  for (const field of fields) {
    const [, name, value] = FIELD.exec(field) ?? [];
    if (name === undefined) return null;
    const blank = /^[ \t]+|[ \t]+$/g;
    const plain = value.replaceAll(blank, "").toLowerCase();
    const isLength = name.toLowerCase() === "content-length";
    const isCoding = name.toLowerCase() === "transfer-encoding";
    if (name.toLowerCase() === "connection" && plain !== "keep-alive") return null;
    if (!isLength && !isCoding) continue;
    if (length !== null || isChunked) return null;
    if (isCoding && plain !== "chunked") return null;
    if (isLength && (!/^\d+$/.test(plain) || BigInt(plain) > 1n << 53n)) return null;
    if (isLength) length = Number(plain);
    else isChunked = true;
  }
  return { length, isChunked };
}

function chunksEnd(text: string, at: number): End {
  for (;;) {
    const end = text.indexOf("\n", at);
    if (end < 0) return "more";
    const size = /^([0-9a-f]{1,8})\r$/i.exec(text.slice(at, end));
    if (size === null) return "lost";
    const length = parseInt(size[1], 16);
    at = end + 1;
    if (length === 0) return trailerEnd(text, at);
    at += length;
    if (text.length < at + 2) return "more";
    if (text.slice(at, at + 2) !== "\r\n") return "lost";
    at += 2;
  }
}

function trailerEnd(text: string, at: number): End {
  if (text.startsWith("\r\n", at)) return at + 2;
  const lines = linesOf(text, at);
  if (lines === "more" || lines === "lost") return lines;
  const framing = /^(?:content-length|transfer-encoding|connection):/i;
  const isGood = lines.lines.every((line) => FIELD.test(line) && !framing.test(line));
  return isGood ? lines.end : "lost";
}

/** A request or response that is well formed for most of the time. */
export function randomMessage(random: Random, of: Of): string {
  const lines = [of === null ? requestLine(random) : statusLine(random)];
  for (let i = random.integer(4); i > 0; i--) lines.push(pick(random, FIELDS));
  let body = "x\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n".repeat(4).slice(random.integer(90));
  const framing = pick(random, ["none", "length", "length", "chunked", "chunked", "both"] as const);
  if (framing === "length" || framing === "both") {
    const name = pick(random, ["Content-Length", "content-length", "CONTENT-LENGTH"]);
    lines.push(`${name}:${pick(random, ["", " ", "\t "])}${body.length}${pick(random, ["", " "])}`);
  }
  if (framing === "chunked" || framing === "both") {
    lines.push(`Transfer-Encoding:${pick(random, [" chunked", "chunked", " Chunked\t"])}`);
    const cut = 1 + random.integer(body.length - 1);
    const chunks = [body.slice(0, cut), body.slice(cut)].filter((chunk) => chunk !== "");
    const trailer = random.next() < 0.2 ? `${pick(random, FIELDS)}\r\n` : "";
    body = chunks.map((chunk) => `${chunk.length.toString(16)}\r\n${chunk}\r\n`).join("") +
      `0\r\n${trailer}\r\n`;
  }
  if (framing === "none") body = "";
  const at = 1 + random.integer(lines.length);
  if (random.next() < 0.1) lines.splice(at, 0, pick(random, BAD_FIELDS));
  return [...lines, "", ""].join("\r\n") + body;
}

function requestLine(random: Random): string {
  const method = pick(random, ["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]);
  const bad = ["CONNECT", "PRI", "get", "GE", "GETT", "TRACE", ""];
  const version = random.next() < 0.96 ? "HTTP/1.1" : pick(random, ["HTTP/1.0", "HTTP/2.0", "x"]);
  return `${random.next() < 0.96 ? method : pick(random, bad)} /${"a".repeat(random.integer(9))} ` +
    version;
}

function statusLine(random: Random): string {
  const code = pick(random, [200, 200, 200, 200, 100, 101, 103, 204, 304, 404, 599, 600, 99]);
  return `HTTP/1.${random.next() < 0.97 ? 1 : 0} ${code}${pick(random, ["", " ", " OK"])}`;
}

const FIELDS = [
  "Host: example.org",
  "Connection: keep-alive",
  "connection:Keep-Alive ",
  "Date: Sun, 06 Nov 1994 08:49:37 GMT",
  "X-Empty:",
  "Content-Lengths: 7",
  "Content-Typ_e: text/plain;\tcharset=utf-8 \xe4",
];
const BAD_FIELDS = [
  "Connection: close",
  "Connection: Upgrade",
  "Connection: keep-alive, close",
  "Connection:",
  " folded",
  "\tfolded",
  "No colon",
  "Content-Length : 3",
  "Content-Length: 3",
  "Content-Length: +3",
  "Content-Length: 3, 3",
  "Content-Length: 9007199254740993",
  "Content-Length: 18446744073709551617",
  "Content-Length:",
  "Transfer-Encoding: gzip, chunked",
  "Transfer-Encoding: identity",
  "Transfer-Encoding:",
  ": no name",
  "X-Control: \x00",
  "X-Return: a\rb",
  "X-Line: a\nContent-Length: 4",
];
