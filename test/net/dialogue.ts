/**
 * dialogue.ts - one TCP connection of a test client, strict about every octet and every wait
 *
 * Theory of operation
 * A dialogue wraps a Deno connection. Every operation has a deadline; when it passes, the connection
 * is closed, which ends the pending call, and the operation fails. Every failure says what was tried,
 * how many octets had gone each way and how long the connection had lived, because that is what one
 * needs to find the segment in a capture. An end of stream where octets are due is a failure like a
 * reset is: P1 and P4 of the design are checked here.
 *
 * Limits: one read and one write may be under way at a time.
 */

/** Longest wait of one operation when nothing else is said. */
const OPERATION_TIMEOUT_MS = 30_000;
/** Octets asked of the kernel in one read. */
const READ_LENGTH = 256 << 10;

/** Where and how to connect. */
export interface DialogueOptions {
  /** Address to dial. */
  address: string;
  /** Port to dial. */
  port: number;
  /** Longest wait of one operation, milliseconds; default 30 s. */
  timeoutMs?: number;
}

/** A connection that fails loudly. */
export class Dialogue {
  /** Octets read so far. */
  received = 0;
  /** Octets written so far. */
  sent = 0;
  /** Longest wait for octets from the server, milliseconds. */
  largestWaitMs = 0;
  readonly #connection: Deno.TcpConn;
  readonly #name: string;
  readonly #timeoutMs: number;
  readonly #startMs = performance.now();
  readonly #buffer = new Uint8Array(READ_LENGTH);
  /** Octets that were read but not yet asked for. */
  #ahead = new Uint8Array();

  private constructor(name: string, connection: Deno.TcpConn, timeoutMs: number) {
    this.#name = name;
    this.#connection = connection;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Connects.
   *
   * @param name Name of the dialogue, for messages.
   * @param options Where to.
   * @returns The connection.
   * @throws {Error} If it cannot be made in time.
   */
  static async connect(name: string, options: DialogueOptions): Promise<Dialogue> {
    const { address, port, timeoutMs = OPERATION_TIMEOUT_MS } = options;
    const startMs = performance.now();
    const signal = AbortSignal.timeout(timeoutMs);
    try {
      const connection = await Deno.connect({ hostname: address, port, signal });
      connection.setNoDelay(true);
      return new Dialogue(name, connection, timeoutMs);
    } catch (error) {
      const afterMs = Math.round(performance.now() - startMs);
      throw new Error(
        `${name}: cannot connect to ${address} port ${port} in ${afterMs} ms: ${error}`,
      );
    }
  }

  /** The local port, which names the connection in a capture. */
  get localPort(): number {
    return this.#connection.localAddr.port;
  }

  /**
   * Reads what is there, at least one octet.
   *
   * @param limit At most so many octets.
   * @returns A view that the next read overwrites; empty at the end of the stream.
   * @throws {Error} If the connection breaks or nothing comes in time.
   */
  async readSome(limit = READ_LENGTH): Promise<Uint8Array> {
    if (this.#ahead.length > 0) {
      const octets = this.#ahead.subarray(0, limit);
      this.#ahead = this.#ahead.subarray(octets.length);
      return octets;
    }
    const startMs = performance.now();
    const target = this.#buffer.subarray(0, Math.min(limit, READ_LENGTH));
    const count = await this.#within("read", this.#connection.read(target));
    this.largestWaitMs = Math.max(this.largestWaitMs, performance.now() - startMs);
    this.received += count ?? 0;
    return target.subarray(0, count ?? 0);
  }

  /**
   * Reads an exact number of octets and hands them on piece by piece.
   *
   * @param length How many.
   * @param take Called with each piece and its offset from where this read began.
   * @throws {Error} If the stream ends or breaks before that, or `take` throws.
   */
  async readExactly(
    length: number,
    take: (octets: Uint8Array, offset: number) => void,
  ): Promise<void> {
    for (let done = 0; done < length;) {
      const octets = await this.readSome(length - done);
      if (octets.length === 0) {
        throw this.failure(`read ${length} octets`, `the stream ended after ${done} of them`);
      }
      take(octets, done);
      done += octets.length;
    }
  }

  /**
   * Reads up to and including a line feed.
   *
   * @param lengthMax Longest line.
   * @returns The line without CR and LF.
   * @throws {Error} If the stream ends or breaks before that, or the line is too long.
   */
  async readLine(lengthMax = 4096): Promise<string> {
    let line = "";
    while (line.length <= lengthMax) {
      const octets = await this.readSome();
      if (octets.length === 0) throw this.failure("read a line", `the stream ended: '${line}'`);
      const end = octets.indexOf(10);
      line += new TextDecoder("latin1").decode(end < 0 ? octets : octets.subarray(0, end));
      if (end < 0) continue;
      const rest = octets.slice(end + 1);
      this.#ahead = this.#ahead.length === 0 ? rest : Uint8Array.from([...rest, ...this.#ahead]);
      return line.replace(/\r$/, "");
    }
    throw this.failure("read a line", `it is longer than ${lengthMax}`);
  }

  /**
   * Writes all octets.
   *
   * @param octets What to write.
   * @throws {Error} If the connection breaks or does not take them in time.
   */
  async write(octets: Uint8Array): Promise<void> {
    for (let done = 0; done < octets.length;) {
      const count = await this.#within("write", this.#connection.write(octets.subarray(done)));
      this.sent += count;
      done += count;
    }
  }

  /** Ends our direction of the stream. */
  async closeWrite(): Promise<void> {
    await this.#within("close the sending side", this.#connection.closeWrite());
  }

  /**
   * Insists that the server ends its direction now.
   *
   * @throws {Error} If more octets come, the connection breaks or the end does not come in time.
   */
  async expectEnd(): Promise<void> {
    const octets = await this.readSome();
    if (octets.length > 0) {
      throw this.failure("see the end of the stream", `${octets.length} octets more came`);
    }
  }

  /** Closes the connection; harmless when it is closed. */
  close(): void {
    try {
      this.#connection.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }

  /**
   * Makes the error for a wrong octet or answer.
   *
   * @param tried What was tried.
   * @param found What was found instead.
   * @returns An error that says so, with the state of the connection.
   */
  failure(tried: string, found: string): Error {
    const afterMs = Math.round(performance.now() - this.#startMs);
    return new Error(
      `${this.#name} (local port ${this.localPort}): cannot ${tried}: ${found}; ` +
        `${this.received} octets received and ${this.sent} sent in ${afterMs} ms`,
    );
  }

  async #within<T>(tried: string, operation: Promise<T>): Promise<T> {
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      this.close();
    }, this.#timeoutMs);
    try {
      return await operation;
    } catch (error) {
      throw this.failure(tried, isLate ? `nothing for ${this.#timeoutMs} ms` : String(error));
    } finally {
      clearTimeout(timer);
    }
  }
}
