/**
 * http_talks.ts - clients that ask over one connection again and again, and servers that answer each request alone
 *
 * A server reads requests with the plain twin of the core's parser. What it answers depends on the request's
 * path, so that any server answers the same, whenever it was started; some paths ask for an answer that is not
 * framed as HTTP/1.1 wants, or for one that depends on what was said before. For tests over replicas.ts.
 */
import type { Random } from "../net/random.ts";
import type { Endpoint } from "./endpoint.ts";
import { messageEnd } from "./http_twin.ts";
import type { Replicas } from "./replicas.ts";
import { pick } from "./seeded.ts";
import type { Talk } from "./talks.ts";

/** Octets of a text that is octets. */
export function latin1(text: string): Uint8Array {
  return Uint8Array.from(text, (char) => char.charCodeAt(0));
}

function content(octets: number, seed: number): string {
  return Array.from(
    { length: octets },
    (_, i) => String.fromCharCode((Math.imul(i + 1, seed | 1) >>> 9) & 255),
  ).join("");
}

/** The answer to a request, which asks for so many octets and a manner: `/octets/seed/manner`. */
export function answerTo(request: string): string {
  const [, method, size, seed, manner] = /^(\w+) \/(\d+)\/(\d+)\/(\w+) /.exec(request)!;
  const asked = request.slice(request.indexOf("\r\n\r\n") + 4);
  const body = method === "GET" || method === "HEAD"
    ? content(Number(size), Number(seed))
    : `${asked.length} ${content(Number(size), asked.length + 1)}`;
  const head = (code: string, ...fields: string[]) =>
    [`HTTP/1.1 ${code}`, "Server: twin", ...fields, "", ""].join("\r\n");
  const whole = head("200 OK", `Content-Length: ${body.length}`);
  const isHead = method === "HEAD";
  switch (manner) {
    case "chunked": {
      const half = body.length >> 1;
      const chunks = [body.slice(0, half), body.slice(half)].filter((chunk) => chunk !== "");
      const said = chunks.map((chunk) => `${chunk.length.toString(16)}\r\n${chunk}\r\n`).join("");
      return head("200 OK", "Transfer-Encoding: chunked") + (isHead ? "" : `${said}0\r\n\r\n`);
    }
    case "none":
      return head(pick304(Number(seed)));
    case "interim":
      return head("103 Early Hints", "Link: </a>") + whole + (isHead ? "" : body);
    // Not what was hinted at:
    case "upgrade":
      return head("101 Switching Protocols", "Upgrade: x") + body;
    case "short":
      return head("200 OK", `Content-Length: ${body.length >> 1}`) + body;
    case "bodied":
      return whole + body;
    case "twice":
      return whole + body + whole + body;
    case "old":
      return whole.replace("HTTP/1.1", "HTTP/1.0") + body;
    case "endless":
      return head("200 OK") + body;
    default:
      return whole + (isHead ? "" : body);
  }
}

function pick304(seed: number): string {
  return seed % 2 === 0 ? "204 No Content" : "304 Not Modified";
}

/** Ways to answer that HTTP/1.1 knows. */
export const MANNERS = ["length", "length", "chunked", "none", "interim"];
/** Ways that it does not. */
export const LIES = ["upgrade", "short", "bodied", "twice", "old", "endless"];

/** A server that answers each request by itself. */
export function httpProgram(server: Endpoint): void {
  let text = "";
  server.onOctets = (octets) => {
    text += Array.from(octets, (octet) => String.fromCharCode(octet)).join("");
    for (let end = messageEnd(text, null); typeof end === "number"; end = messageEnd(text, null)) {
      server.write(latin1(answerTo(text.slice(0, end))));
      text = text.slice(end);
    }
  };
  server.onEnd = () => server.end();
}

/** A request that some server may get. */
export function randomRequest(random: Random, manners: readonly string[] = MANNERS): string {
  const method = pick(random, ["GET", "GET", "GET", "HEAD", "POST", "PUT"]);
  const size = pick(random, [0, 40, 700, 6000]);
  const path = `/${random.integer(size + 1)}/${random.integer(10000)}/${pick(random, manners)}`;
  const lines = [
    `${method} ${path} HTTP/1.1`,
    "Host: a",
    `X-Fill: ${"f".repeat(random.integer(200))}`,
  ];
  const isAsking = method === "GET" || method === "HEAD";
  const body = "GET / HTTP/1.1\r\n".repeat(random.integer(40)).slice(random.integer(17));
  if (isAsking) return [...lines, "", ""].join("\r\n");
  if (random.next() < 0.5) {
    return [...lines, `Content-Length: ${body.length}`, "", ""].join("\r\n") + body;
  }
  const chunk = body === "" ? "" : `${body.length.toString(16)}\r\n${body}\r\n`;
  return [...lines, "Transfer-Encoding: chunked", "", ""].join("\r\n") + `${chunk}0\r\n\r\n`;
}

/** A client that asks, with up to `depth` requests that are not answered yet, and ends when all are. */
export function httpTalk(
  random: Random,
  replicas: Replicas,
  port: number,
  { requests, depth }: { requests: string[]; depth: number },
): Talk {
  const client = replicas.connect(port, {
    stamps: random.next() < 0.7,
    sack: random.next() < 0.7,
    scale: pick(random, [null, 0, 7]),
    window: pick(random, [2000, 20000, 65535]),
  });
  const answers = requests.map(answerTo);
  let asked = 0;
  let answered = 0;
  let answeredOctets = 0;
  const go = () => {
    while (answered < answers.length) {
      const end = answeredOctets + answers[answered].length;
      if (client.received.length < end) break;
      answeredOctets = end;
      answered++;
    }
    while (asked < requests.length && asked < answered + depth) {
      client.write(latin1(requests[asked++]));
    }
    if (answered === requests.length) client.end();
  };
  client.onOctets = go;
  go();
  return {
    client,
    port,
    request: latin1(requests.join("")),
    expected: latin1(answers.join("")),
  };
}
