/**
 * completions_test.ts - completion scripts, run by bash itself where it can be
 *
 * bash completes real command lines; the scripts for zsh and fish are compared with the command table,
 * and read by their shells where those are installed.
 */
import { deepStrictEqual, match, ok, strictEqual } from "node:assert/strict";
import { completionScript, SHELLS } from "../../runtime/cli/completions.ts";
import { commandTable } from "../../runtime/cli/program.ts";

const commands = commandTable();

/** What bash offers after some words; the last one is being typed. */
async function completeInBash(...words: string[]): Promise<string[]> {
  const script = `${completionScript(commands, "bash")}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_holdfast; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { success, stdout, stderr } = await new Deno.Command("bash", {
    args: ["--norc", "-c", script, "bash", ...words],
    cwd: new URL("../../", import.meta.url).pathname,
  }).output();
  ok(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout).split("\n").filter((line) => line !== "");
}

Deno.test("completionScript() for bash completes commands, options, choices and files", async () => {
  deepStrictEqual(await completeInBash("holdfast", "s"), ["status", "switch"]);
  deepStrictEqual(await completeInBash("holdfast", "demo", "--s"), [
    "--service",
    "--size",
    "--svg",
  ]);
  deepStrictEqual(await completeInBash("holdfast", "demo", "--fault", ""), [
    "crash",
    "switch",
    "none",
  ]);
  deepStrictEqual(await completeInBash("holdfast", "completions", "f"), ["fish"]);
  deepStrictEqual(await completeInBash("holdfast", "up", "-c", "deno.js"), ["deno.json"]);
  deepStrictEqual(await completeInBash("holdfast", "switch", "--to", ""), []);
});

Deno.test("completionScript() names every command and option for every shell", () => {
  for (const shell of SHELLS) {
    const script = completionScript(commands, shell);
    for (const command of commands) {
      ok(script.includes(command.name), `${shell}: ${command.name}`);
      for (const flag of command.options.map(({ flags }) => flags.at(-1)!)) {
        const written = shell === "fish" ? `-l ${flag.slice(2)}` : flag;
        ok(script.includes(written), `${shell}: ${command.name} ${flag}`);
      }
    }
  }
});

Deno.test("completionScript() quotes what descriptions hold", () => {
  const zsh = completionScript(commands, "zsh");
  match(zsh, /'up:run this host'\\''s node/);
  const fish = completionScript(commands, "fish");
  match(fish, /-a up -d 'run this host\\'s node/);
  strictEqual(
    fish.split("\n").filter((line) => (line.replaceAll("\\'", "").split("'").length - 1) % 2)
      .length,
    0,
  );
});

for (const shell of ["zsh", "fish"] as const) {
  const isInstalled = (Deno.env.get("PATH") ?? "").split(":").some((place) => {
    try {
      return Deno.statSync(`${place}/${shell}`).isFile;
    } catch {
      return false;
    }
  });
  Deno.test({
    name: `completionScript() for ${shell} is one that ${shell} can read (needs ${shell})`,
    ignore: !isInstalled,
    fn: async () => {
      const path = await Deno.makeTempFile();
      try {
        await Deno.writeTextFile(path, completionScript(commands, shell));
        const { success, stderr } = await new Deno.Command(shell, { args: ["-n", path] }).output();
        ok(success, new TextDecoder().decode(stderr));
      } finally {
        await Deno.remove(path);
      }
    },
  });
}
