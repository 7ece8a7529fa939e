/**
 * core_build.ts - the packet core with a count at the start of every branch
 *
 * Theory of operation
 * V8 counts what runs in JavaScript, not in WebAssembly. So the core is compiled once more with a call
 * at the start of every branch: the compiler's own parser tells where the branches of each source are,
 * and the call, which carries the branch's number, is written into a copy on the same line. The build
 * imports one function, `cover.hit`; core_preload.ts gives it to every instance that a test makes.
 *
 *   core/a.ts  if (x) return;  ->  copy/a.ts  if (x) { hit(8);return; } else { hit(9); }  ->  cover.wasm
 *
 * A branch is the body of a function or loop, an arm of an `if` (one that is not written, too), or a case
 * of a switch. Conditional expressions and the operands of && and || are not counted.
 */
import { parse as parsePath } from "node:path";
import { fileURLToPath } from "node:url";

/** A branch: where it starts. */
export interface Branch {
  /** Source, relative to core/. */
  file: string;
  /** Line, from 1. */
  line: number;
}

/** As much of the compiler's syntax tree as is looked at. */
interface Syntax {
  kind: number;
  range: { start: number; end: number };
  [member: string]: unknown;
}

const CORE = fileURLToPath(new URL("../../core/", import.meta.url));
const ASC = fileURLToPath(new URL("../../node_modules/assemblyscript/bin/asc.js", import.meta.url));
/** Members of statements that may be one statement or a block. */
const ARMS = ["ifTrue", "ifFalse", "body"];

/**
 * Builds the core with counted branches.
 *
 * @param directory An empty directory, where copies and `cover.wasm` go.
 * @returns The branches by number.
 * @throws {Error} When the compiler refuses; the message holds what it said.
 */
export async function buildCoveredCore(directory: string): Promise<Branch[]> {
  const branches: Branch[] = [];
  for (const file of sourcesIn("")) {
    const { text, lines } = await markBranches(
      file,
      await Deno.readTextFile(CORE + file),
      branches.length,
    );
    branches.push(...lines.map((line) => ({ file, line })));
    const depth = file.split("/").length - 1;
    const from = `${"../".repeat(depth) || "./"}cover`;
    const path = `${directory}/${file}`;
    await Deno.mkdir(parsePath(path).dir, { recursive: true });
    await Deno.writeTextFile(path, `${text}\nimport { hit } from "${from}";\n`);
  }
  await Deno.writeTextFile(
    `${directory}/cover.ts`,
    '@external("cover", "hit")\nexport declare function hit(branch: i32): void;\n',
  );
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--quiet",
      ASC,
      `${directory}/mod.ts`,
      "-o",
      `${directory}/cover.wasm`,
      "-O2",
      "--noAssert",
    ]
      .concat(["--runtime", "stub", "--use", "abort=", "--enable", "simd", "--memoryBase", "1024"])
      .concat(["--initialMemory", "1"]),
  }).output();
  if (!success) {
    throw new Error(`Cannot compile the covered core: ${new TextDecoder().decode(stderr)}`);
  }
  return branches;
}

/**
 * Writes a call at the start of each branch of a source.
 *
 * @param file Its name, for messages of the parser.
 * @param text The source.
 * @param first Number of its first branch.
 * @returns The copy, and the line of each branch.
 */
export async function markBranches(
  file: string,
  text: string,
  first: number = 0,
): Promise<{ text: string; lines: number[] }> {
  const compiler = await import("assemblyscript");
  const program = compiler.newProgram(compiler.newOptions());
  compiler.parse(program, text, file, true);
  const { sources } = program as unknown as { sources: Syntax[] };
  const marks = new Map<number, string>();
  const lines: number[] = [];
  const number = (at: number) => first + lines.push(text.slice(0, at).split("\n").length) - 1;
  mark(sources[0], { text, marks, number });
  return { text: withMarks(text, marks), lines };
}

function sourcesIn(folder: string): string[] {
  return [...Deno.readDirSync(CORE + folder)].flatMap(({ name, isDirectory }) => {
    if (isDirectory) return name === "build" ? [] : sourcesIn(`${folder}${name}/`);
    return name.endsWith(".ts") ? [folder + name] : [];
  });
}

interface Marking {
  text: string;
  /** What is written before the octet at an offset. */
  marks: Map<number, string>;
  /** Numbers a branch at an offset. */
  number: (at: number) => number;
}

/** Marks the start of every block, of every arm that is no block, and of every case. */
function mark(value: unknown, marking: Marking): void {
  if (Array.isArray(value)) {
    for (const each of value) mark(each, marking);
    return;
  }
  if (!isSyntax(value)) return;
  const { text, marks, number } = marking;
  const { start, end } = value.range;
  if (Array.isArray(value.statements)) {
    const isCase = "label" in value;
    const first: unknown = value.statements[0];
    if (isCase && isSyntax(first) && text[first.range.start] !== "{") {
      put(marks, first.range.start, { before: `hit(${number(first.range.start)}); ` });
    } else if (!isCase && text[start] === "{") {
      put(marks, start + 1, { before: ` hit(${number(start)});` });
    }
  }
  // Outer statements come first: what they close lies outside of what inner ones close.
  for (const arm of ARMS) {
    const statement = value[arm];
    if (!isSyntax(statement)) continue;
    const { range } = statement;
    const isBlock = text[range.start] === "{";
    // An `else if` stays what it is: its own arms are marked.
    const isArm = !(arm === "ifFalse" && "ifTrue" in statement) &&
      !(arm === "body" && value.kind === statement.kind);
    let closing = "";
    if (!isBlock && isArm) {
      put(marks, range.start, { before: `{ hit(${number(range.start)}); ` });
      closing = " }";
    }
    if (arm === "ifTrue" && !isSyntax(value.ifFalse)) {
      closing += ` else { hit(${number(start)}); }`;
    }
    const after = !isBlock && text[range.end] === ";" ? range.end + 1 : range.end;
    if (closing !== "") put(marks, after, { after: closing });
  }
  if (end < start) return;
  for (const [member, child] of Object.entries(value)) {
    if (member !== "range" && member !== "parent") mark(child, marking);
  }
}

/** Adds to what is written at an offset: inner openings come later, inner closings sooner. */
function put(marks: Map<number, string>, at: number, add: { before?: string; after?: string }) {
  marks.set(at, (add.after ?? "") + (marks.get(at) ?? "") + (add.before ?? ""));
}

function isSyntax(value: unknown): value is Syntax {
  return typeof value === "object" && value !== null && "kind" in value && "range" in value &&
    value.range !== null;
}

function withMarks(text: string, marks: Map<number, string>): string {
  let marked = "";
  let last = 0;
  for (const at of [...marks.keys()].sort((a, b) => a - b)) {
    marked += text.slice(last, at) + marks.get(at);
    last = at;
  }
  return marked + text.slice(last);
}
