/**
 * faulty_files.ts - a directory that loses what was not synced
 *
 * Theory of operation
 * Files live in memory, as the program sees them and as the disk has them. After a given number of
 * calls that change something the power fails, in the midst of that call; all later calls fail.
 * `afterPowerCut()` is what the disk then has: of writes that were not synced each sector of 512
 * octets may be there or not, whatever was written after it; of names that were made or removed and not
 * synced, any.
 *
 *   write ──> unsynced ──sync──> durable           create, remove ──> unsynced ──syncDirectory──> durable
 */
import type { LogFile, LogFiles } from "../../runtime/log_store/files.ts";
import type { Random } from "../net/random.ts";

const SECTOR = 512;

/** The power has failed. */
export class PowerCut extends Error {
  /** Always "PowerCut". */
  override readonly name = "PowerCut";
}

interface Inode {
  seen: Uint8Array;
  durable: Uint8Array;
  /** Not synced, in the order they were written. */
  writes: { at: number; bytes: Uint8Array }[];
}

/** The directory. */
export class FaultyFiles implements LogFiles {
  readonly #names = new Map<string, Inode>();
  readonly #durableNames = new Map<string, Inode>();
  #callsLeft: number;
  /** Octets that the disk has room for. */
  capacity = Infinity;

  /** The power fails in the call of this number that changes something. */
  constructor(calls = Infinity) {
    this.#callsLeft = calls;
  }

  list(): string[] {
    return [...this.#names.keys()];
  }

  pathOf(name: string): string {
    return `/log/${name}`;
  }

  read(name: string): Uint8Array {
    return this.#inode(name).seen.slice();
  }

  create(name: string): LogFile {
    this.#expectPower();
    const inode: Inode = { seen: new Uint8Array(), durable: new Uint8Array(), writes: [] };
    this.#names.set(name, inode);
    this.#step();
    return {
      write: (bytes, at) => this.#write(inode, bytes, at),
      sync: () => {
        this.#expectPower();
        this.#step();
        this.#settle(inode);
      },
      close: () => {},
    };
  }

  truncate(name: string, octets: number): void {
    this.#expectPower();
    const inode = this.#inode(name);
    inode.seen = inode.seen.slice(0, octets);
    this.#step();
    this.#settle(inode);
  }

  remove(name: string): void {
    this.#expectPower();
    this.#inode(name);
    this.#names.delete(name);
    this.#step();
  }

  syncDirectory(): void {
    this.#expectPower();
    this.#step();
    this.#durableNames.clear();
    for (const [name, inode] of this.#names) this.#durableNames.set(name, inode);
  }

  /** From now on the power does not fail. */
  endFaults(): void {
    this.#callsLeft = Infinity;
  }

  /** Puts a file there, durably. */
  put(name: string, bytes: Uint8Array): void {
    const inode = { seen: bytes.slice(), durable: bytes.slice(), writes: [] };
    this.#names.set(name, inode);
    this.#durableNames.set(name, inode);
  }

  /** What another process finds when only the one that wrote has died. */
  afterKill(calls = Infinity): FaultyFiles {
    const files = new FaultyFiles(calls);
    for (const [name, inode] of this.#names) files.#names.set(name, inode);
    for (const [name, inode] of this.#durableNames) files.#durableNames.set(name, inode);
    return files;
  }

  /** What the disk has after a power cut. */
  afterPowerCut(random: Random, calls = Infinity): FaultyFiles {
    const files = new FaultyFiles(calls);
    const names = new Set([...this.#names.keys(), ...this.#durableNames.keys()]);
    for (const name of names) {
      const [seen, durable] = [this.#names.get(name), this.#durableNames.get(name)];
      const inode = random.integer(2) === 0 ? seen : durable;
      const kept = seen === durable ? durable : inode;
      if (kept !== undefined) files.put(name, survivor(kept, random));
    }
    return files;
  }

  #inode(name: string): Inode {
    const inode = this.#names.get(name);
    if (inode === undefined) throw new Error(`Cannot find ${name}`);
    return inode;
  }

  #write(inode: Inode, bytes: Uint8Array, at: number): void {
    this.#expectPower();
    const others = [...this.#names.values()].filter((other) => other !== inode);
    const used = others.reduce((sum, { seen }) => sum + seen.length, 0);
    const room = Math.max(0, this.capacity - used - at);
    const part = bytes.slice(0, Math.min(bytes.length, room));
    inode.writes.push({ at, bytes: part });
    inode.seen = overlaid(inode.seen, part, at);
    this.#step();
    if (part.length < bytes.length) {
      throw Object.assign(new Error("No space left on device (os error 28)"), { code: "ENOSPC" });
    }
  }

  #settle(inode: Inode): void {
    inode.durable = inode.seen.slice();
    inode.writes = [];
  }

  #expectPower(): void {
    if (this.#callsLeft <= 0) throw new PowerCut("The power has failed");
  }

  #step(): void {
    this.#callsLeft--;
    this.#expectPower();
  }
}

/** What the disk has of a file, some of whose writes were not synced. */
function survivor({ durable, writes }: Inode, random: Random): Uint8Array {
  let bytes: Uint8Array = durable.slice();
  for (const write of writes) {
    const end = write.at + write.bytes.length;
    for (let start = write.at; start < end;) {
      const stop = Math.min(end, (Math.floor(start / SECTOR) + 1) * SECTOR);
      if (random.integer(3) > 0) {
        bytes = overlaid(bytes, write.bytes.slice(start - write.at, stop - write.at), start);
      }
      start = stop;
    }
  }
  return bytes;
}

function overlaid(bytes: Uint8Array, part: Uint8Array, at: number): Uint8Array {
  const result = new Uint8Array(Math.max(bytes.length, at + part.length));
  result.set(bytes);
  result.set(part, at);
  return result;
}
