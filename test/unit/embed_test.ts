/**
 * embed_test.ts - the README's example of embedding the core, run as it stands there
 *
 * It runs under this Deno, and under Node where there is one: two runtimes that share nothing but
 * WebAssembly. The claim is what the README says it prints.
 */

import { ok, strictEqual } from "node:assert/strict";

const root = new URL("../../", import.meta.url);
const RUNTIMES: [program: string, args: string[]][] = [
  [Deno.execPath(), ["run", "-A", "--ext=js", "-"]],
  ["node", ["--input-type=module", "-"]],
];

/** The only block of JavaScript in the README. */
function example(): string {
  const readme = Deno.readTextFileSync(new URL("README.md", root));
  const blocks = [...readme.matchAll(/^```js\n([^]*?)^```$/gm)];
  strictEqual(blocks.length, 1);
  return blocks[0][1];
}

function isInstalled(program: string): boolean {
  try {
    return new Deno.Command(program, { args: ["--version"] }).outputSync().success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

for (const [program, args] of RUNTIMES) {
  const name = program === Deno.execPath() ? "Deno" : "Node";
  Deno.test({
    name: `the README's example of embedding the core does what it says under ${name}`,
    ignore: !isInstalled(program),
    fn: async () => {
      const child = new Deno.Command(program, {
        args,
        cwd: root,
        stdin: "piped",
        stdout: "piped",
        stderr: "piped",
      }).spawn();
      const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
      const writer = child.stdin.getWriter();
      await writer.write(new TextEncoder().encode(example()));
      await writer.close();
      const { success, stdout, stderr } = await child.output();
      clearTimeout(timer);
      ok(success, new TextDecoder().decode(stderr));
      strictEqual(new TextDecoder().decode(stdout), "54 octets for the server\n1 connection\n");
    },
  });
}
