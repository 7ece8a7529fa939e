/**
 * token_server.ts - a server that no other can stand in for: each answer holds octets drawn for it alone
 *
 * A connection carries requests of one line each: the number of lines to answer. All lines of an answer
 * are the same 32 octets: 15 hexadecimal digits of this process, 16 of this answer, a line feed. So a
 * client sees at once where octets of two answers, or of two servers, were put together.
 *
 * Usage: deno run -A test/net/token_server.ts PORT
 */

/** Most lines of an answer. */
const LINES_MAX = 100_000;
const REQUEST_LENGTH_MAX = 16;

function digits(count: number): string {
  return crypto.getRandomValues(new Uint8Array(8)).toHex().slice(0, count);
}

const own = digits(15);

async function serve(connection: Deno.TcpConn): Promise<void> {
  let text = "";
  for await (const octets of connection.readable) {
    text += new TextDecoder().decode(octets);
    const requests = text.split("\n");
    text = requests.pop() ?? "";
    if (text.length > REQUEST_LENGTH_MAX) throw new Error(`a request is '${text}'`);
    for (const request of requests) {
      const lines = Number(request);
      if (!(lines > 0 && lines <= LINES_MAX)) throw new Error(`a request is '${request}'`);
      const answer = new TextEncoder().encode(`${own}${digits(16)}\n`.repeat(lines));
      for (let done = 0; done < answer.length;) {
        done += await connection.write(answer.subarray(done));
      }
    }
  }
}

/** A client that goes away is no news. */
function complain(error: unknown): void {
  const isGone = error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.BrokenPipe;
  if (!isGone) console.error(`connection ended: ${error}`);
}

for await (const connection of Deno.listen({ hostname: "::", port: Number(Deno.args[0]) })) {
  connection.setNoDelay(true);
  serve(connection).catch(complain);
}
