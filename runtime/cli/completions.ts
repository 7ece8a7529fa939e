/**
 * completions.ts - completion scripts for bash, zsh and fish, made from the command table
 *
 * Theory of operation
 * The table is that of the program itself, so a script never names a command or an option that does not exist.
 * Completed are commands, their options, the choices of an option or argument, and file names after an
 * option that takes one.
 *
 * Sources: bash(1) "Programmable Completion", zshcompsys(1), complete(1) of fish.
 */

/** Shells that scripts are made for. */
export const SHELLS = ["bash", "zsh", "fish"] as const;
/** A shell. */
export type Shell = typeof SHELLS[number];

/** An option of a command. */
export interface OptionEntry {
  /** "-c" and "--config". */
  flags: string[];
  /** What it does. */
  text: string;
  /** What follows it: nothing, one of these words, a file, or anything. */
  value: "none" | "file" | "any" | readonly string[];
}

/** A command. */
export interface CommandEntry {
  /** Its name. */
  name: string;
  /** What it does. */
  text: string;
  /** Its options. */
  options: OptionEntry[];
  /** Words its argument can be; empty when it can be anything or there is none. */
  words: string[];
}

/** Name of the program that scripts are for. */
const PROGRAM = "holdfast";

/**
 * A completion script.
 *
 * @param commands All commands of the program.
 * @param shell For which shell.
 */
export function completionScript(commands: readonly CommandEntry[], shell: Shell): string {
  switch (shell) {
    case "bash":
      return bashScript(commands);
    case "zsh":
      return zshScript(commands);
    case "fish":
      return fishScript(commands);
  }
}

function bashScript(commands: readonly CommandEntry[]): string {
  const cases = commands.map(({ name, options, words }) => {
    const values = options.flatMap(({ flags, value }) => {
      if (value === "none") return [];
      const action = value === "file"
        ? 'COMPREPLY=($(compgen -f -- "$cur"))'
        : value === "any"
        ? "COMPREPLY=()"
        : `COMPREPLY=($(compgen -W "${value.join(" ")}" -- "$cur"))`;
      return [`        ${flags.join("|")}) ${action}; return ;;`];
    });
    const all = [...options.flatMap(({ flags }) => flags), ...words].join(" ");
    return `    ${name})
      case "$prev" in
${[...values, "        *) ;;"].join("\n")}
      esac
      COMPREPLY=($(compgen -W "${all}" -- "$cur"))
      ;;`;
  });
  const names = commands.map(({ name }) => name).join(" ");
  return `# bash completion for ${PROGRAM}; use: source <(${PROGRAM} completions bash)
_${PROGRAM}() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}"
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "${names} --help --version" -- "$cur"))
    return
  fi
  case "\${COMP_WORDS[1]}" in
${cases.join("\n")}
  esac
}
complete -o filenames -F _${PROGRAM} ${PROGRAM}
`;
}

function zshScript(commands: readonly CommandEntry[]): string {
  const names = commands.map(({ name, text }) => `    '${name}:${zshText(text)}'`);
  const cases = commands.map(({ name, options, words }) => {
    const lines = options.map(({ flags, text, value }) => {
      const action = value === "none"
        ? ""
        : value === "file"
        ? ":file:_files"
        : value === "any"
        ? ":value: "
        : `:value:(${value.join(" ")})`;
      const head = flags.length > 1 ? `'(${flags.join(" ")})'{${flags.join(",")}}` : flags[0];
      return `${head}'[${zshText(text)}]${action}'`;
    });
    if (words.length > 0) lines.push(`'1:argument:(${words.join(" ")})'`);
    return `    ${name})\n      _arguments ${lines.join(" \\\n        ")}\n      ;;`;
  });
  return `#compdef ${PROGRAM}
# zsh completion for ${PROGRAM}; use: source <(${PROGRAM} completions zsh)
_${PROGRAM}() {
  local -a commands
  commands=(
${names.join("\n")}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  local command="\${words[2]}"
  shift words
  ((CURRENT--))
  case "$command" in
${cases.join("\n")}
  esac
}
compdef _${PROGRAM} ${PROGRAM}
`;
}

function zshText(text: string): string {
  return text.replaceAll("'", "'\\''").replace(/[[\]:]/g, "\\$&");
}

function fishScript(commands: readonly CommandEntry[]): string {
  const lines = commands.flatMap(({ name, text, options, words }) => {
    const inside = `complete -c ${PROGRAM} -n '__fish_seen_subcommand_from ${name}'`;
    const entries = options.map(({ flags, text, value }) => {
      const parts = flags.map((flag) =>
        flag.startsWith("--") ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`
      );
      if (value === "file") parts.push("-r -F");
      else if (value === "any") parts.push("-x");
      else if (value !== "none") parts.push(`-x -a '${value.join(" ")}'`);
      return `${inside} ${parts.join(" ")} -d '${fishText(text)}'`;
    });
    if (words.length > 0) entries.push(`${inside} -a '${words.join(" ")}'`);
    const first = `complete -c ${PROGRAM} -n __fish_use_subcommand -a ${name} -d '${
      fishText(text)
    }'`;
    return [first, ...entries];
  });
  return `# fish completion for ${PROGRAM}; use: ${PROGRAM} completions fish | source
complete -c ${PROGRAM} -f
${lines.join("\n")}
`;
}

function fishText(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("'", "\\'");
}
