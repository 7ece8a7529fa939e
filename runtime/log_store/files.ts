/**
 * files.ts - the directory of a service's log, with what durability needs and nothing else
 *
 * {@linkcode LogFiles} is what segments.ts asks of a file system; tests put one in its place that
 * loses what was not synced. {@linkcode openLogDirectory} is the real one. Its files are the
 * owner's alone, as they hold what clients have said.
 *
 * Sources: open(2), fdatasync(2); "The directory entry" in fsync(2).
 */

/** A directory of segments. */
export interface LogFiles {
  /** Names of all files. */
  list(): string[];
  /** Where a file is, for messages. */
  pathOf(name: string): string;
  /** All octets of a file. */
  read(name: string): Uint8Array;
  /** A new file, or one that was there and is empty now. */
  create(name: string): LogFile;
  /** Cuts a file off, and makes durable what is left of it. */
  truncate(name: string, octets: number): void;
  /** Removes a file. */
  remove(name: string): void;
  /** Makes it durable which files there are. */
  syncDirectory(): void;
}

/** A file that is written. */
export interface LogFile {
  /** Writes all of `bytes` at `at`. */
  write(bytes: Uint8Array, at: number): void;
  /** Makes all durable that was written. */
  sync(): void;
  /** Closes it. */
  close(): void;
}

/**
 * Opens a directory, which is made if missing.
 *
 * @throws {Error} When it cannot be made or read.
 */
export function openLogDirectory(path: string): LogFiles {
  Deno.mkdirSync(path, { recursive: true, mode: 0o700 });
  return new LogDirectory(path);
}

/**
 * Sees to it that no other process has this log.
 *
 * @returns What holds the lock until it is closed.
 * @throws {Error} When another process holds it.
 */
export function lockLog(path: string): { close: () => void } {
  Deno.mkdirSync(path, { recursive: true, mode: 0o700 });
  const file = Deno.openSync(`${path}/lock`, { create: true, write: true, mode: 0o600 });
  if (file.tryLockSync(true)) return file;
  file.close();
  throw new Error(`Cannot use the log in ${path}: another process has it open`);
}

class LogDirectory implements LogFiles {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  list(): string[] {
    return [...Deno.readDirSync(this.#path)].map(({ name }) => name);
  }

  pathOf(name: string): string {
    return `${this.#path}/${name}`;
  }

  read(name: string): Uint8Array {
    return Deno.readFileSync(this.pathOf(name));
  }

  create(name: string): LogFile {
    return new DiskFile(
      Deno.openSync(this.pathOf(name), { create: true, write: true, truncate: true, mode: 0o600 }),
    );
  }

  truncate(name: string, octets: number): void {
    const file = Deno.openSync(this.pathOf(name), { write: true });
    try {
      file.truncateSync(octets);
      file.syncSync();
    } finally {
      file.close();
    }
  }

  remove(name: string): void {
    Deno.removeSync(this.pathOf(name));
  }

  syncDirectory(): void {
    const directory = Deno.openSync(this.#path, { read: true });
    try {
      directory.syncSync();
    } finally {
      directory.close();
    }
  }
}

class DiskFile implements LogFile {
  readonly #file: Deno.FsFile;

  constructor(file: Deno.FsFile) {
    this.#file = file;
  }

  write(bytes: Uint8Array, at: number): void {
    this.#file.seekSync(at, Deno.SeekMode.Start);
    for (let done = 0; done < bytes.length;) done += this.#file.writeSync(bytes.subarray(done));
  }

  sync(): void {
    this.#file.syncDataSync();
  }

  close(): void {
    this.#file.close();
  }
}
