/**
 * core_native.ts - the C twin of the core, compiled and loaded for one run
 *
 * Theory of operation
 * core_twin.c is compiled with "cc -O3" into a directory of this run's own, loaded through FFI, and its
 * file removed at once: the mapping stays. C reads and writes one buffer of ours, by offsets, because a
 * call with small numbers costs about 5 ns and one with pointers several times that.
 */

import { hasProgram, versionOf } from "./report.ts";

const COMPILER = "cc";
const FLAGS = ["-O3", "-shared", "-fPIC"];

const SYMBOLS = {
  twin_base: { parameters: ["buffer"], result: "void" },
  twin_sum: { parameters: ["u32", "u32"], result: "u32" },
  twin_digest: { parameters: ["u32", "u32"], result: "u64" },
  twin_log: { parameters: ["u32", "u32", "u32", "u32", "u32"], result: "u32" },
  twin_table: { parameters: ["u32"], result: "u32" },
  twin_insert: { parameters: ["u32", "u32", "u32", "u32", "u32", "u32"], result: "void" },
  twin_find: { parameters: ["u32", "u32"], result: "u32" },
  twin_shift: { parameters: ["u32", "u32", "u32", "u32"], result: "void" },
  twin_translate: { parameters: ["u32", "u32", "u32", "u32", "u32", "u32", "u32"], result: "u32" },
} as const;

/** The C twin with its memory. */
export interface Native {
  /** Its functions. */
  c: Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];
  /** What offsets refer to. */
  memory: Uint8Array<ArrayBuffer>;
  /** Compiler and flags. */
  compiler: string;
}

/**
 * Compiles and loads the twin.
 *
 * @param length Octets of its memory.
 * @returns Null when there is no compiler.
 * @throws {Error} When there is one and it refuses.
 */
export async function loadNative(length: number): Promise<Native | null> {
  if (!hasProgram(COMPILER)) return null;
  const directory = await Deno.makeTempDir({ prefix: "holdfast-bench-" });
  try {
    const library = `${directory}/core_twin.so`;
    const source = decodeURIComponent(new URL("./core_twin.c", import.meta.url).pathname);
    const args = [...FLAGS, "-o", library, source];
    const { success, stderr } = await new Deno.Command(COMPILER, { args }).output();
    if (!success) {
      throw new Error(`Cannot compile core_twin.c: ${new TextDecoder().decode(stderr).trim()}`);
    }
    const { symbols: c } = Deno.dlopen(library, SYMBOLS);
    const memory = new Uint8Array(length);
    c.twin_base(memory);
    const version = await versionOf(COMPILER, "--version") ?? COMPILER;
    return { c, memory, compiler: `${version}, ${FLAGS[0]}` };
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}
