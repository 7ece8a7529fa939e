/**
 * token_client.ts - reads answers of the token server and looks for what no single server has written
 *
 * Each of its connections asks again and again, and after some answers, or a reset, makes place for a
 * new one, so that there are old and new ones at every moment. A connection reads a mixture when two
 * lines of one answer differ, or two answers come from different servers. One that gets nothing for
 * STUCK_MS is given up.
 *
 * It prints "client ready", waits for a line of input, asks until the input ends, and prints what it saw
 * as one line of JSON ({@linkcode TokenResult}).
 *
 * Usage: deno run -A test/net/token_client.ts ADDRESS PORT CONNECTIONS
 */

/** What the connections saw. */
export interface TokenResult {
  /** Whole answers. */
  answers: number;
  /** Connections that read what no single server wrote. */
  mixtures: number;
  /** Connections that were reset. */
  resets: number;
  /** Connections whose stream ended though an answer was due. */
  earlyEnds: number;
  /** Connections that got nothing for a long time. */
  stuck: number;
  /** Attempts to connect that failed. */
  refused: number;
}

const LINE = 32;
const OWN = 15;
const LINES_MAX = 4000;
const ANSWERS_MAX = 40;
const STUCK_MS = 4000;
const PAUSE_MS = 5;

type Outcome = "done" | "mixtures" | "resets" | "earlyEnds" | "stuck";

const result: TokenResult = {
  answers: 0,
  mixtures: 0,
  resets: 0,
  earlyEnds: 0,
  stuck: 0,
  refused: 0,
};
let isOver = false;

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Asks over one connection until it ends. */
async function talk(connection: Deno.TcpConn): Promise<Outcome> {
  const buffer = new Uint8Array(64 << 10);
  let server = "";
  for (let i = 0; i < ANSWERS_MAX && !isOver; i++) {
    const lines = 1 + Math.floor(Math.random() ** 3 * LINES_MAX);
    await connection.write(new TextEncoder().encode(`${lines}\n`));
    let line = "";
    for (let got = 0; got < lines * LINE;) {
      const length = await readInTime(connection, buffer);
      if (length === null) return "earlyEnds";
      const text = new TextDecoder("latin1").decode(buffer.subarray(0, length));
      for (let at = 0; at < length;) {
        const column = got % LINE;
        const part = text.slice(at, at + LINE - column);
        if (got < LINE) line += part;
        else if (line.slice(column, column + part.length) !== part) return "mixtures";
        at += part.length;
        got += part.length;
      }
    }
    if (server !== "" && server !== line.slice(0, OWN)) return "mixtures";
    server = line.slice(0, OWN);
    result.answers++;
    await pause(Math.random() * PAUSE_MS);
  }
  return "done";
}

async function readInTime(
  connection: Deno.TcpConn,
  buffer: Uint8Array<ArrayBuffer>,
): Promise<number | null> {
  const timer = setTimeout(() => connection.close(), STUCK_MS);
  try {
    return await connection.read(buffer);
  } finally {
    clearTimeout(timer);
  }
}

async function keepTalking(hostname: string, port: number): Promise<void> {
  while (!isOver) {
    let connection: Deno.TcpConn;
    try {
      connection = await Deno.connect({ hostname, port, signal: AbortSignal.timeout(STUCK_MS) });
    } catch {
      result.refused++;
      await pause(50);
      continue;
    }
    connection.setNoDelay(true);
    const outcome = await talk(connection).catch(outcomeOf);
    if (outcome !== "done") result[outcome]++;
    try {
      connection.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }
}

function outcomeOf(error: unknown): Outcome {
  if (error instanceof Deno.errors.ConnectionReset) return "resets";
  if (error instanceof Deno.errors.BrokenPipe) return "resets";
  const isClosed = error instanceof Deno.errors.BadResource ||
    error instanceof Deno.errors.Interrupted;
  if (isClosed) return "stuck";
  throw error;
}

if (import.meta.main) {
  const [address, port, connections] = Deno.args;
  console.log("client ready");
  const input = Deno.stdin.readable.getReader();
  await input.read();
  const talks = Array.from(
    { length: Number(connections) },
    () => keepTalking(address, Number(port)),
  );
  while (!(await input.read()).done);
  isOver = true;
  await Promise.all(talks);
  console.log(JSON.stringify(result));
}
