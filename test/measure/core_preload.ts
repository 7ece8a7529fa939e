/**
 * core_preload.ts - gives the tests the packet core that counts its branches
 *
 * Theory of operation
 * Loaded by `deno test --preload` before each test file. An instance of any module that exports what the
 * packet core exports is made from the counting build instead (core_build.ts); all of them count together.
 * When a test file ends, its counts are written to a file of their own:
 *
 *   HOLDFAST_COVER/cover.wasm   ->   tests   ->   HOLDFAST_COVER/counts-<random>   u32 for each branch
 */

const directory = Deno.env.get("HOLDFAST_COVER");
if (directory === undefined) throw new Error("Cannot count branches: HOLDFAST_COVER is not set");
const counts = new Uint32Array(Number(Deno.env.get("HOLDFAST_COVER_BRANCHES")));
const Instance = WebAssembly.Instance;
let counting: WebAssembly.Module | undefined;

function isCore(module: WebAssembly.Module): boolean {
  const names = WebAssembly.Module.exports(module).map(({ name }) => name);
  return ["init", "configure", "setRole", "netSlots"].every((name) => names.includes(name));
}

WebAssembly.Instance = new Proxy(Instance, {
  construct(target, [module, imports]: [WebAssembly.Module, WebAssembly.Imports?]) {
    if (!isCore(module)) return new target(module, imports);
    counting ??= new WebAssembly.Module(Deno.readFileSync(`${directory}/cover.wasm`));
    const hit = (branch: number) => {
      counts[branch]++;
    };
    return new target(counting, { cover: { hit } });
  },
});

globalThis.addEventListener("unload", () => {
  Deno.writeFileSync(
    `${directory}/counts-${crypto.randomUUID()}`,
    new Uint8Array(counts.buffer),
  );
});
