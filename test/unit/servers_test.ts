/**
 * servers_test.ts - the lab's servers say the same whenever they are asked the same
 */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { contentSha256, fillContent } from "../../runtime/lab/content.ts";
import { serve, type ServerKind } from "../../runtime/lab/servers.ts";

const LOOPBACK = "127.0.0.1";

Deno.test("fillContent() gives octets that depend on seed and position alone", () => {
  const whole = new Uint8Array(700_000);
  fillContent(whole, 0, 7);
  let offset = 0;
  for (const length of [1, 2, 3, 4093, 4096, 4097, 65_536, 1, 262_144, 261_000]) {
    const piece = new Uint8Array(length);
    fillContent(piece, offset, 7);
    assertSame(piece, whole.subarray(offset, offset + length), `${length} from ${offset}`);
    offset += length;
  }
  const far = new Uint8Array(8);
  fillContent(far, 4096 * (2 ** 32 - 1) - 2, 7);
  assert.deepEqual(far.subarray(2, 6), new Uint8Array([255, 255, 255, 255]));
});

Deno.test("fillContent() makes no two pages alike, nor two seeds", () => {
  const length = 4 << 20;
  const content = new Uint8Array(length);
  fillContent(content, 0, 1);
  const pages = new Set<string>();
  for (let at = 0; at < length; at += 4096) {
    pages.add(createHash("sha256").update(content.subarray(at, at + 4096)).digest("hex"));
  }
  assert.equal(pages.size, length / 4096);
  const other = new Uint8Array(length);
  fillContent(other, 0, 0);
  assert.notDeepEqual(other.subarray(4, 4096), content.subarray(4, 4096));
});

Deno.test("contentSha256() is the hash of what fillContent() makes, and never changes", async () => {
  const content = new Uint8Array(1_000_003);
  fillContent(content, 0, 7);
  const hash = createHash("sha256").update(content).digest("hex");
  assert.equal(await contentSha256(content.length, 7), hash);
  assert.equal(hash, "72c2b9cb790179313785ab2696ccdd85d871a2680d37f0e3b1bf170e44445741");
});

Deno.test("the file server answers GET, HEAD and ranges over one connection, without a date", async () => {
  await withServer("file", async (port) => {
    const content = new Uint8Array(300_000);
    fillContent(content, 0, 5);
    const path = "/300000/5";
    const answer = await converse(
      port,
      `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\nHEAD ${path} HTTP/1.1\r\n\r\n` +
        `GET ${path} HTTP/1.1\r\nRange: bytes=4090-8200\r\nConnection: close\r\n\r\n`,
    );
    const [whole, rest] = splitResponse(answer);
    assert.match(whole.head, /^HTTP\/1\.1 200 OK\r\n/);
    assert.doesNotMatch(whole.head, /date/i);
    assertSame(whole.body, content);
    const text = new TextDecoder("latin1").decode(rest);
    const third = text.indexOf("HTTP/1.1 206 Partial Content");
    assert.match(text.slice(0, third), /^HTTP\/1\.1 200 OK\r\n(.+\r\n)*\r\n$/);
    const [part] = splitResponse(rest.subarray(third));
    assert.match(part.head, /Content-Range: bytes 4090-8200\/300000\r\n/);
    assertSame(part.body, content.subarray(4090, 8201));
  });
});

Deno.test("the file server refuses what it does not have", async () => {
  await withServer("file", async (port) => {
    const cases: [string, RegExp][] = [
      ["GET /x HTTP/1.0\r\n\r\n", /^HTTP\/1\.1 404 /],
      ["GET /1KiB/1 HTTP/1.0\r\nRange: bytes=1024-\r\n\r\n", /^HTTP\/1\.1 416 [^]*\*\/1024/],
      ["PUT /1KiB/1 HTTP/1.1\r\n\r\n", /^HTTP\/1\.1 405 /],
      ["nonsense\r\n\r\n", /^HTTP\/1\.1 400 /],
      [`GET /${"1".repeat(20_000)}`, /^HTTP\/1\.1 431 /],
    ];
    for (const [request, response] of cases) {
      assert.match(new TextDecoder("latin1").decode(await converse(port, request)), response);
    }
  });
});

Deno.test("the upload server answers with the hash, by length and in chunks", async () => {
  await withServer("upload", async (port) => {
    const text = "hold".repeat(5000);
    const hash = createHash("sha256").update(text).digest("hex");
    const chunks = `10\r\n${text.slice(0, 16)}\r\n4e10;x=y\r\n${
      text.slice(16)
    }\r\n0\r\nA: b\r\n\r\n`;
    const answer = new TextDecoder().decode(
      await converse(
        port,
        `PUT / HTTP/1.1\r\nContent-Length: ${text.length}\r\n\r\n${text}` +
          `POST / HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n` +
          `Connection: close\r\n\r\n${chunks}`,
      ),
    );
    assert.equal(answer.split(`${hash} 20000\n`).length, 3, answer);
    assert.match(answer, /HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK/);
  });
});

Deno.test("the echo server sends back everything after the client's FIN", async () => {
  await withServer("echo", async (port) => {
    const content = new Uint8Array(3_000_000);
    fillContent(content, 0, 9);
    assertSame(await converse(port, content), content);
  });
});

/** Compares by hash, which is quicker than octet by octet. */
function assertSame(actual: Uint8Array, expected: Uint8Array, what?: string): void {
  const hash = (octets: Uint8Array) => createHash("sha256").update(octets).digest("hex");
  assert.equal(actual.length, expected.length, what);
  assert.equal(hash(actual), hash(expected), what);
}

/** Runs a server on a free port of this machine. */
async function withServer(kind: ServerKind, use: (port: number) => Promise<void>): Promise<void> {
  const [listener] = serve(kind, { address: LOOPBACK, port: 0 });
  try {
    await use(listener.addr.port);
  } finally {
    listener.close();
  }
}

/** Sends all, then FIN, while reading to the end. */
async function converse(port: number, request: string | Uint8Array): Promise<Uint8Array> {
  const octets = typeof request === "string" ? new TextEncoder().encode(request) : request;
  using connection = await Deno.connect({ hostname: LOOPBACK, port });
  const answer = new Response(connection.readable).bytes();
  const writer = connection.writable.getWriter();
  await writer.write(octets);
  await connection.closeWrite();
  return await answer;
}

function splitResponse(answer: Uint8Array): [{ head: string; body: Uint8Array }, Uint8Array] {
  const end = new TextDecoder("latin1").decode(answer).indexOf("\r\n\r\n") + 4;
  const head = new TextDecoder("latin1").decode(answer.subarray(0, end));
  const length = Number(/Content-Length: (\d+)/.exec(head)?.[1]);
  return [{ head, body: answer.subarray(end, end + length) }, answer.subarray(end + length)];
}
