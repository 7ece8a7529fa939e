/**
 * check_disk.ts - is the disk fit for a log?
 *
 * What cannot be judged from outside is tried: blocks are written beside the log and made durable, as
 * every answer to a client waits for that. A file system in memory keeps nothing when the power goes.
 *
 * Sources: fdatasync(2); the fields of /proc/self/mounts in fstab(5).
 */

/** Blocks that are written to measure, and their octets. */
const SYNCS = 20;
const BLOCK_OCTETS = 4096;
/** Longer than this, and answers are held for longer than most clients' networks take; milliseconds. */
const SLOW_MS = 20;
/** File systems that live in memory. */
const IN_MEMORY = ["tmpfs", "ramfs"];

/** What was found. */
export interface DiskFound {
  /** "warn" for a disk that is slow or no disk. */
  result: "ok" | "warn";
  /** In words. */
  found: string;
  /** What to do; null when all is well. */
  fix: string | null;
}

/**
 * Tries the disk that a directory is on.
 *
 * @throws {Error} When nothing can be written there.
 */
export async function tryDisk(directory: string): Promise<DiskFound> {
  const syncMs = await medianSyncMs(directory);
  const type = fileSystemOf(await Deno.realPath(directory), await readMounts());
  const took = `a block is durable after ${syncMs.toFixed(2)} ms`;
  if (type !== null && IN_MEMORY.includes(type)) {
    const found =
      `${directory} is in memory (${type}): it outlives the daemon, not a loss of power`;
    return { result: "warn", found, fix: "put state_dir on a disk" };
  }
  const found = `${directory} on ${type ?? "an unknown file system"}: ${took}`;
  if (syncMs <= SLOW_MS) return { result: "ok", found, fix: null };
  return { result: "warn", found, fix: "each answer waits so long; a faster disk would help" };
}

async function medianSyncMs(directory: string): Promise<number> {
  const path = await Deno.makeTempFile({ dir: directory, prefix: ".holdfast-check-" });
  try {
    using file = await Deno.open(path, { write: true });
    const block = new Uint8Array(BLOCK_OCTETS).fill(0x5a);
    const times: number[] = [];
    for (let i = 0; i < SYNCS; i++) {
      const startMs = performance.now();
      await file.write(block);
      await file.syncData();
      times.push(performance.now() - startMs);
    }
    return times.sort((a, b) => a - b)[SYNCS / 2];
  } finally {
    await Deno.remove(path);
  }
}

async function readMounts(): Promise<string> {
  return await Deno.readTextFile("/proc/self/mounts");
}

/**
 * Type of the file system that an absolute path is on; null when `mounts` does not tell.
 *
 * @param mounts As /proc/self/mounts has it; of two on one place the later one counts.
 */
export function fileSystemOf(path: string, mounts: string): string | null {
  let best: { point: string; type: string } | null = null;
  for (const line of mounts.split("\n")) {
    const [, escaped, type] = line.split(" ");
    if (type === undefined) continue;
    const point = escaped.replace(
      /\\([0-7]{3})/g,
      (_, code) => String.fromCharCode(parseInt(code, 8)),
    );
    const isInside = point === "/" || path === point || path.startsWith(`${point}/`);
    if (isInside && (best === null || point.length >= best.point.length)) best = { point, type };
  }
  return best?.type ?? null;
}
