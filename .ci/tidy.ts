/**
 * tidy.ts - house rules that no linter knows
 *
 * Theory of operation
 * Each check looks at the files that git tracks or would track and returns what is wrong, one line
 * each, "file: what". All checks run; the exit status is 1 when any of them found something. The
 * packet core's sources are AssemblyScript, which nothing here can import, so the names that the
 * runtime repeats are compared with their text.
 *
 * Usage: deno run -A .ci/tidy.ts
 */

import { commandTable } from "../runtime/cli/program.ts";
import { COUNTER_NAMES, FIELDS, REASONS } from "../runtime/core.ts";
import { VERSION } from "../runtime/version.ts";

/** Everything that may lie at the top beside dotfiles. */
const TOP_LEVEL = [
  "ARCHITECTURE.md",
  "LICENSE",
  "README.md",
  "bench",
  "core",
  "deno.json",
  "deno.lock",
  "package-lock.json",
  "package.json",
  "runtime",
  "test",
];

/** Written apart, so that this file does not find itself. */
const FORBIDDEN: [pattern: RegExp, why: string][] = [
  [new RegExp(`\\b(${["TO" + "DO", "FIX" + "ME", "X" + "XX"].join("|")})\\b`), "unfinished work"],
  [new RegExp("\\bjs" + "r:"), "only npm packages and Debian's are used"],
  [
    new RegExp(
      ["npm" + "js\\.", "deb\\.deb" + "ian\\.", "deno\\.la" + "nd/", "esm\\.s" + "h"].join("|"),
    ),
    "names the host of a registry",
  ],
];

const root = new URL("../", import.meta.url);

function read(path: string): string {
  return Deno.readTextFileSync(new URL(path, root));
}

function exists(path: string): boolean {
  try {
    Deno.statSync(new URL(path, root));
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Tracked files and those that would be, as paths from the top, which are still there. */
function listFiles(): string[] {
  const { success, stdout, stderr } = new Deno.Command("git", {
    args: ["ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd: root,
  }).outputSync();
  const decoder = new TextDecoder();
  if (!success) throw new Error(`Cannot list the files: git says ${decoder.decode(stderr)}`);
  return decoder.decode(stdout).split("\0").filter((path) => path !== "" && exists(path));
}

function checkTopLevel(files: string[]): string[] {
  const entries = new Set(files.map((path) => path.split("/")[0]));
  return [...entries].filter((entry) => !entry.startsWith(".") && !TOP_LEVEL.includes(entry))
    .map((entry) => `${entry}: not allowed at the top, allowed are ${TOP_LEVEL.join(", ")}`);
}

function checkWords(files: string[]): string[] {
  const problems: string[] = [];
  for (const path of files.filter((path) => !/(^LICENSE|lock\.json|\.lock)$/.test(path))) {
    for (const [index, line] of read(path).split("\n").entries()) {
      for (const [pattern, why] of FORBIDDEN) {
        const found = pattern.exec(line);
        if (found !== null) problems.push(`${path}:${index + 1}: "${found[0]}": ${why}`);
      }
    }
  }
  return problems;
}

function checkVersions(): string[] {
  const lock = JSON.parse(read("package-lock.json"));
  const versions = {
    "package.json": JSON.parse(read("package.json")).version,
    "package-lock.json": lock.version,
    "deno.json": JSON.parse(read("deno.json")).version,
  };
  return Object.entries(versions).filter(([, version]) => version !== VERSION)
    .map(([file, version]) => `${file}: version ${version}, runtime/version.ts says ${VERSION}`);
}

function checkHeaders(files: string[]): string[] {
  return files.filter((path) => /^(core|runtime|test|bench|\.ci)\/.*\.ts$/.test(path)).flatMap(
    (path) => {
      const name = path.slice(path.lastIndexOf("/") + 1);
      const head = read(path).split("\n", 2).join("\n");
      if (!/^\/\*\*(\n| )/.test(head)) return [`${path}: does not open with a block comment`];
      return head.includes(name) ? [] : [`${path}: its opening comment does not name ${name}`];
    },
  );
}

/** The members of a `const enum` in the core, in order; implicit values only. */
function enumMembers(path: string, name: string): string[] {
  const body = new RegExp(`export const enum ${name} \\{([^}]*)\\}`).exec(read(path))?.[1];
  if (body === undefined) throw new Error(`Cannot find the enum ${name} in ${path}`);
  const code = body.replaceAll(/\/\*[^]*?\*\/|\/\/.*/g, "");
  return code.split(",").map((member) => member.split("=")[0].trim()).filter((word) => word !== "");
}

function checkCoreNames(): string[] {
  const counters = enumMembers("core/state.ts", "Counter").filter((name) => name !== "Count")
    .map((name) => name[0].toLowerCase() + name.slice(1));
  const reasons = enumMembers("core/flow/connection.ts", "Reason");
  const mod = read("core/mod.ts");
  const fields = [...mod.matchAll(/case \d+:\s+return offsetof<Connection>\("(\w+)"\)/g)]
    .map(([, name]) => name);
  const where = "runtime/core.ts";
  return [
    ...differences(`${where}: COUNTER_NAMES`, COUNTER_NAMES, counters),
    ...differences(`${where}: FIELDS`, FIELDS, fields),
    ...(REASONS.length === reasons.length ? [] : [
      `${where}: REASONS has ${REASONS.length} entries, Reason in the core has ${reasons.length}`,
    ]),
  ];
}

function differences(what: string, here: readonly string[], core: readonly string[]): string[] {
  const length = Math.max(here.length, core.length);
  for (let i = 0; i < length; i++) {
    if (here[i] !== core[i]) return [`${what}[${i}] is ${here[i]}, in the core it is ${core[i]}`];
  }
  return [];
}

/** The anchor that a heading gets. */
function anchorOf(heading: string): string {
  return heading.toLowerCase().replaceAll(/[^\p{L}\p{N} _-]/gu, "").trim().replaceAll(" ", "-");
}

function anchorsOf(path: string): string[] {
  const text = read(path).replaceAll(/^```[^]*?^```/gm, "");
  return [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => anchorOf(heading));
}

function checkLinks(files: string[]): string[] {
  const problems: string[] = [];
  for (const path of files.filter((path) => path.endsWith(".md"))) {
    for (const [, target] of read(path).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const [file, anchor] = target.split("#");
      const wanted = file === "" ? path : `${path.split("/").slice(0, -1).join("/")}/${file}`
        .replace(/^\//, "");
      if (!exists(wanted)) problems.push(`${path}: links to ${target}, which is not there`);
      else if (anchor !== undefined && !anchorsOf(wanted).includes(anchor)) {
        problems.push(`${path}: links to ${target}, but ${wanted} has no such heading`);
      }
    }
  }
  return problems;
}

/** Both manifests offer the same, and every command that a page names is one. */
function checkCommands(files: string[]): string[] {
  const tasks: Record<string, { command: string }> = JSON.parse(read("deno.json")).tasks;
  const scripts: Record<string, string> = JSON.parse(read("package.json")).scripts;
  const names = Object.keys(tasks);
  const commands = commandTable().map(({ name }) => name);
  const problems = [...new Set([...names, ...Object.keys(scripts)])]
    .filter((name) => tasks[name]?.command !== scripts[name])
    .map((name) => `package.json: script ${name} is not what the task of deno.json is`);
  const named: [pattern: RegExp, known: string[], what: string][] = [
    [/\bdeno task ([a-z][a-z:]*)/g, names, "task of deno.json"],
    [
      /\bnpm (?:run )?(?:-s |--silent )?(demo|test[a-z:]*|(?<=run )[a-z][a-z:]*)/g,
      names,
      "script of package.json",
    ],
    [/(?:^ *(?:\$ |sudo )?|`(?:sudo )?)holdfast ([a-z]+)/gm, commands, "command of holdfast"],
  ];
  for (const path of files.filter((path) => path.endsWith(".md"))) {
    const text = read(path);
    for (const [pattern, known, what] of named) {
      for (const [, word] of text.matchAll(pattern)) {
        if (!known.includes(word)) problems.push(`${path}: "${word}" is no ${what}`);
      }
    }
  }
  return problems;
}

function main(): number {
  const files = listFiles();
  const problems = [
    ...checkTopLevel(files),
    ...checkWords(files),
    ...checkVersions(),
    ...checkHeaders(files),
    ...checkCoreNames(),
    ...checkLinks(files),
    ...checkCommands(files),
  ];
  for (const problem of problems) console.error(problem);
  console.log(`tidy: ${files.length} files, ${problems.length} to mend`);
  return problems.length > 0 ? 1 : 0;
}

if (import.meta.main) Deno.exit(main());
