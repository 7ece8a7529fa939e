/**
 * unix_socket.ts - Unix stream sockets whose connections say who is at the other end
 *
 * Theory of operation
 * Deno.serve and Deno.listen hide a connection's descriptor, so the kernel cannot be asked who connected;
 * node:net shows it, but closes each descriptor of a Unix socket twice (deno 2.9.5, seen with strace:
 * "close(24) = 0", "close(24) = -1 EBADF"), and between the two another thread may have been given the
 * number: modules failed to load with EBADF, packets could have gone astray. So descriptors are ours here.
 * They never block; a poll(2) on a thread of Deno's pool waits for them, one per connection and direction.
 * A descriptor is closed when its last poll has come back, and shutdown(2) makes it come back.
 *
 *   UnixListener    accept() ... UnixConnection, a node:stream Duplex with `peer`
 *                   close() .... accept() gives null, the file is gone
 *
 * Limits: READ_LENGTH octets per read; a connection that is silent for IDLE_MS is ended; whoever accepts
 * bounds how many there are.
 * Sources: unix(7), poll(2), shutdown(2).
 */
import { Duplex } from "node:stream";
import { check, closeAll, Errno, errno, libc, Memory, POLLIN, POLLOUT } from "./libc.ts";
import {
  AF_UNIX,
  MSG_NOSIGNAL,
  type PeerCredentials,
  peerCredentials,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
} from "./socket.ts";

/** Octets of one read. */
const READ_LENGTH = 16 << 10;
/** How long a connection may be silent, or not take an answer, milliseconds. */
const IDLE_MS = 120_000;
/** How long accept() rests after a failure, milliseconds. */
const ACCEPT_PAUSE_MS = 100;
const LISTEN_BACKLOG = 64;
/** Octets of sun_path, its closing zero among them. */
const PATH_LENGTH_MAX = 108;
const SHUT_WR = 1;
const SHUT_RDWR = 2;

const waiting = Deno.dlopen("libc.so.6", {
  poll: { parameters: ["buffer", "u64", "i32"], result: "i32", nonblocking: true },
}).symbols;

/**
 * Waits, without blocking this thread, until a descriptor is ready, has an error or is shut down.
 *
 * @param events POLLIN or POLLOUT.
 * @returns False when `timeoutMs` has passed.
 */
async function ready(fd: number, events: number, timeoutMs: number): Promise<boolean> {
  const entry = new DataView(new ArrayBuffer(8));
  entry.setInt32(0, fd, true);
  entry.setInt16(4, events, true);
  return await waiting.poll(entry.buffer, 1n, timeoutMs) !== 0;
}

/** A Unix stream socket that is listened on. */
export class UnixListener {
  readonly #path: string;
  readonly #fd: number;
  #isClosed = false;

  /**
   * Makes the socket's file and listens on it.
   *
   * @param mode Permissions of the file from its first moment on, 0o600 for its owner alone.
   * @throws {RangeError} When the path is too long for the kernel.
   * @throws {SystemError} EADDRINUSE when there is a file; ENOENT without the directory.
   */
  constructor(path: string, mode: number) {
    const bytes = new TextEncoder().encode(path);
    if (bytes.length >= PATH_LENGTH_MAX) {
      throw new RangeError(
        `Cannot listen on ${path}: it has ${bytes.length} octets, allowed are ${
          PATH_LENGTH_MAX - 1
        }`,
      );
    }
    const address = new Memory(2 + PATH_LENGTH_MAX);
    address.view.setUint16(0, AF_UNIX, true);
    address.bytes.set(bytes, 2);
    this.#path = path;
    this.#fd = check(
      libc.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
      "socket",
      `make a socket for ${path}`,
    );
    const umask = Deno.umask(0o777 & ~mode);
    try {
      const length = 2 + bytes.length + 1;
      check(libc.bind(this.#fd, address.address, length), "bind", `listen on ${path}`);
      check(libc.listen(this.#fd, LISTEN_BACKLOG), "listen", `listen on ${path}`);
    } catch (error) {
      closeAll(this.#fd);
      throw error;
    } finally {
      Deno.umask(umask);
    }
  }

  /** The next connection; null once the listener is closed. To be called by one at a time. */
  async accept(): Promise<UnixConnection | null> {
    while (!this.#isClosed) {
      const fd = libc.accept4(this.#fd, 0n, 0n, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd >= 0) return new UnixConnection(fd);
      // Anything but "none yet" (a client that is gone, no descriptor left) may be better in a moment.
      if (errno() === Errno.EAGAIN) await ready(this.#fd, POLLIN, IDLE_MS);
      else await new Promise((resolve) => setTimeout(resolve, ACCEPT_PAUSE_MS));
    }
    closeAll(this.#fd);
    return null;
  }

  /** Makes {@linkcode accept} give null and removes the file. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    libc.shutdown(this.#fd, SHUT_RDWR);
    try {
      Deno.removeSync(this.#path);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}

/** One connection of a {@linkcode UnixListener}. */
export class UnixConnection extends Duplex {
  /** Who connected, by the kernel's word. */
  readonly peer: PeerCredentials;
  readonly #fd: number;
  readonly #octets = new Memory(READ_LENGTH);
  /** What is being written; a field, so that it stays where it is. */
  #sending: Memory | null = null;
  /** Polls that have not come back. */
  readonly #pending = new Set<Promise<boolean>>();

  /** Takes a connected descriptor that never blocks; closes it when the stream is destroyed. */
  constructor(fd: number) {
    super({ allowHalfOpen: true });
    this.#fd = fd;
    this.peer = peerCredentials(fd);
  }

  /** Hands on what has come, or waits for it; node:stream. */
  override async _read(): Promise<void> {
    while (!this.destroyed) {
      const length = libc.recv(this.#fd, this.#octets.address, READ_LENGTH, 0);
      if (length > 0) {
        this.push(this.#octets.bytes.slice(0, length));
        return;
      }
      if (length === 0) {
        this.push(null);
        return;
      }
      if (!await this.#wait(POLLIN)) return;
    }
  }

  /** Sends all of a chunk; node:stream. */
  override async _write(
    chunk: Uint8Array,
    _encoding: string,
    done: (error?: Error | null) => void,
  ): Promise<void> {
    this.#sending = Memory.of(chunk);
    for (let sent = 0; sent < chunk.length;) {
      const at = this.#sending.address + BigInt(sent);
      const length = libc.send(this.#fd, at, chunk.length - sent, MSG_NOSIGNAL);
      if (length >= 0) sent += length;
      else if (!await this.#wait(POLLOUT)) return done();
    }
    done();
  }

  /** Tells the other end that nothing more comes; node:stream. */
  override _final(done: (error?: Error | null) => void): void {
    libc.shutdown(this.#fd, SHUT_WR);
    done();
  }

  /** Ends the connection in both directions, and closes the descriptor; node:stream. */
  override async _destroy(
    error: Error | null,
    done: (error?: Error | null) => void,
  ): Promise<void> {
    libc.shutdown(this.#fd, SHUT_RDWR);
    await Promise.all(this.#pending);
    closeAll(this.#fd);
    done(error);
  }

  /** Whether the call that was refused may be made again; if not, the stream is being destroyed. */
  async #wait(events: number): Promise<boolean> {
    if (errno() !== Errno.EAGAIN) {
      this.destroy();
      return false;
    }
    const poll = ready(this.#fd, events, IDLE_MS);
    this.#pending.add(poll);
    const isReady = await poll;
    this.#pending.delete(poll);
    if (!isReady) this.destroy();
    return isReady && !this.destroyed;
  }
}
