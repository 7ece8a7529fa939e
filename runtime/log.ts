/**
 * log.ts - what happens, one line per event, on standard error
 *
 * Theory of operation
 * An event is a short constant text and fields; the text says what, the fields say which and how much.
 *
 *   text   2026-11-22T04:17:13.963Z warn  no uplink service=web why="no default route"
 *   json   {"time":"2026-11-22T04:17:13.963Z","level":"warn","event":"no uplink","service":"web",...}
 *
 * A field never breaks the line: text with blanks, quotes or control characters is quoted as in JSON.
 * Writing never throws, because a logger that cannot write must not end the daemon.
 *
 * Limits: FIELD_LENGTH_MAX characters of a field are written; {@linkcode Repeats} remembers
 * REPEATS_MAX different events and forgets the oldest beyond that.
 */

/** Levels, from chatty to grave. */
export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
/** How grave an event is. */
export type LogLevel = typeof LOG_LEVELS[number];

/** Forms of a line. */
export const LOG_FORMATS = ["text", "json"] as const;
/** How a line looks. */
export type LogFormat = typeof LOG_FORMATS[number];

/** Details of an event; `undefined` values are left out. */
export type LogFields = Record<string, unknown>;

/** Takes events. */
export interface Logger {
  /** For whoever looks for a fault in the program. */
  debug(event: string, fields?: LogFields): void;
  /** What an operator wants to find afterwards. */
  info(event: string, fields?: LogFields): void;
  /** It works, but not as wished. */
  warn(event: string, fields?: LogFields): void;
  /** It does not work. */
  error(event: string, fields?: LogFields): void;
}

/** Choices for {@linkcode createLogger}. */
export interface LoggerOptions {
  /** Form of a line; "text" if not given. */
  format?: LogFormat;
  /** Least grave level that is written; "info" if not given. */
  level?: LogLevel;
  /** Takes a line that ends with a line feed; standard error if not given. */
  write?: (line: string) => void;
}

/** Characters of one field that are written. */
export const FIELD_LENGTH_MAX = 8192;
/** Different events that {@linkcode Repeats} remembers. */
export const REPEATS_MAX = 256;

/** Characters in the widest name of a level. */
const LEVEL_WIDTH = 5;

/** Makes a logger. */
export function createLogger(options: LoggerOptions = {}): Logger {
  const { format = "text", level: least = "info", write = writeToStderr } = options;
  const from = LOG_LEVELS.indexOf(least);
  const formatLine = format === "json" ? formatJson : formatText;
  function logAt(level: LogLevel): (event: string, fields?: LogFields) => void {
    if (LOG_LEVELS.indexOf(level) < from) return () => {};
    return (event, fields = {}) =>
      write(formatLine({ time: new Date().toISOString(), level, event }, fields));
  }
  return {
    debug: logAt("debug"),
    info: logAt("info"),
    warn: logAt("warn"),
    error: logAt("error"),
  };
}

interface LineHead {
  time: string;
  level: LogLevel;
  event: string;
}

function formatText(head: LineHead, fields: LogFields): string {
  const words = [head.time, head.level.padEnd(LEVEL_WIDTH), plain(head.event)];
  for (const [key, value] of Object.entries(fields)) {
    if (value !== undefined) words.push(`${key}=${formatValue(value)}`);
  }
  return words.join(" ") + "\n";
}

function formatJson(head: LineHead, fields: LogFields): string {
  const line: Record<string, unknown> = { ...head };
  for (const [key, value] of Object.entries(fields)) {
    if (!(key in head)) line[key] = simple(value);
  }
  return JSON.stringify(line, (_key, value) => typeof value === "bigint" ? String(value) : value) +
    "\n";
}

/** A value that JSON can carry: errors by their message, long text shortened. */
function simple(value: unknown): unknown {
  if (value instanceof Error) return shorten(value.message);
  return typeof value === "string" ? shorten(value) : value;
}

/** A value in one word. */
function formatValue(value: unknown): string {
  const short = simple(value);
  if (typeof short === "bigint") return String(short);
  if (typeof short !== "string") return JSON.stringify(short) ?? String(short);
  return /^[^\s"=\p{C}]+$/u.test(short) ? short : JSON.stringify(short);
}

/** Text without control characters, which could forge a line. */
function plain(text: string): string {
  return shorten(text).replace(/\p{Cc}/gu, " ");
}

function shorten(text: string): string {
  if (text.length <= FIELD_LENGTH_MAX) return text;
  return `${text.slice(0, FIELD_LENGTH_MAX)}... (${text.length} characters)`;
}

const encoder = new TextEncoder();

function writeToStderr(line: string): void {
  try {
    let rest = encoder.encode(line);
    while (rest.length > 0) rest = rest.subarray(Deno.stderr.writeSync(rest));
  } catch {
    // Nobody reads standard error any more; there is nobody left to tell.
  }
}

/**
 * Tells repeated events from new ones, so that a warning that could come with every packet comes once
 * per interval, with the number of times it was left out.
 *
 * @example
 * ```ts
 * import { strictEqual } from "node:assert/strict";
 * const repeats = new Repeats(1000);
 * strictEqual(repeats.note("table full", 0), 0);
 * strictEqual(repeats.note("table full", 400), null);
 * strictEqual(repeats.note("table full", 1200), 1);
 * ```
 */
export class Repeats {
  readonly #intervalMs: number;
  readonly #seen = new Map<string, { untilMs: number; leftOut: number }>();

  /** Lets an event through once per `intervalMs`. */
  constructor(intervalMs: number) {
    this.#intervalMs = intervalMs;
  }

  /**
   * Notes an event.
   *
   * @param key What makes two events the same.
   * @param nowMs Time on any clock that does not run backwards, milliseconds.
   * @returns How often it was left out since it was last let through; null when it is left out now.
   */
  note(key: string, nowMs: number): number | null {
    const last = this.#seen.get(key);
    if (last !== undefined && nowMs < last.untilMs) {
      last.leftOut++;
      return null;
    }
    this.#seen.delete(key);
    this.#seen.set(key, { untilMs: nowMs + this.#intervalMs, leftOut: 0 });
    if (this.#seen.size > REPEATS_MAX) this.#seen.delete(this.#seen.keys().next().value!);
    return last?.leftOut ?? 0;
  }
}
