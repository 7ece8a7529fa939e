/**
 * program.ts - the command table of `holdfast`
 *
 * Theory of operation
 * commander parses, checks choices and writes help; what a command does is in a module of its own that
 * is loaded when the command runs, so that `--help` loads none of them. Every action gives an exit
 * status. Sources: DESIGN section 8.
 */

import { Argument, Command, CommanderError, Option } from "commander";
import { VERSION } from "../version.ts";
import {
  type CommandEntry,
  completionScript,
  type OptionEntry,
  type Shell,
  SHELLS,
} from "./completions.ts";
import { complain, EXIT_DONE, EXIT_FAILED, EXIT_USAGE, print, UsageError } from "./output.ts";

/**
 * Runs the program.
 *
 * @param args Words after the program's name.
 * @returns The exit status.
 */
export async function run(args: readonly string[]): Promise<number> {
  let status = EXIT_DONE;
  const program = createProgram((result) => status = result);
  try {
    await program.parseAsync([...args], { from: "user" });
    return status;
  } catch (error) {
    return explain(error as Error);
  }
}

/** Says what went wrong, as far as that has not been said, and gives the exit status for it. */
function explain(error: Error): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT_DONE : EXIT_USAGE;
  complain(`holdfast: ${error.message.replaceAll("\n", "\nholdfast: ")}`);
  if (error instanceof UsageError || error.name === "ConfigError") return EXIT_USAGE;
  // The daemon says 400 and 404 to what was asked wrongly, in control.ts.
  const isMisuse = error.name === "ControlError" && "status" in error &&
    (error.status === 400 || error.status === 404);
  return isMisuse ? EXIT_USAGE : EXIT_FAILED;
}

/** All commands with their options. */
export function commandTable(): CommandEntry[] {
  return createProgram(() => {}).commands.map(entryOf);
}

/** The commands; `done` takes the exit status of the one that ran. */
function createProgram(done: (status: number) => void): Command {
  const program = new Command("holdfast")
    .description("Keeps TCP connections alive when the server behind them dies, hangs or moves")
    .version(VERSION, "-V, --version", "show the version")
    .helpOption("-h, --help", "show help")
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ writeOut: print, writeErr: complain })
    .showHelpAfterError('Try "holdfast --help" or "holdfast COMMAND --help"')
    .enablePositionalOptions()
    .addHelpText(
      "after",
      `
Exit status: 0 done, 1 failed, 2 wrong use or configuration.

Examples:
  holdfast demo                              see a connection survive its server, as root
  holdfast check -c /etc/holdfast.toml       is this host ready?
  holdfast up -c /etc/holdfast.toml          run this host's node
  holdfast switch web                        move a service to the standby`,
    );

  program.command("up")
    .description(
      "run this host's node until SIGTERM or SIGINT, which hand over to the standby first",
    )
    .addOption(configOption().makeOptionMandatory())
    .addOption(logFormatOption())
    .addOption(logLevelOption())
    .addHelpText(
      "after",
      examples(
        ["holdfast up -c /etc/holdfast.toml", "run in the foreground"],
        ["holdfast up -c a.toml --log-format json", "log lines for a collector"],
      ),
    )
    .action(async (options) => done(await (await import("./up.ts")).up(options)));

  addAskOptions(program.command("status"))
    .description("show roles, epochs, protection, servers and links of a running node")
    .addHelpText(
      "after",
      examples(
        ["holdfast status", "of the only node on this host"],
        ["holdfast status -c a.toml --json", "for programs"],
      ),
    )
    .action(async (options) => done(await (await import("./ask.ts")).status(options)));

  addAskOptions(program.command("connections"))
    .description("list connections with their protection, or the reason for the lack of it")
    .addHelpText(
      "after",
      examples(
        ["holdfast connections", "all of them"],
        ["holdfast connections --json", "for programs"],
      ),
    )
    .action(async (options) => done(await (await import("./ask.ts")).connections(options)));

  addAskOptions(program.command("switch"))
    .description("move a service with its live connections to another node")
    .argument("<service>", "name of the service")
    .option("--to <node>", "node that takes it (default: the standby)")
    .addHelpText(
      "after",
      examples(
        ["holdfast switch web", "to the standby"],
        ["holdfast switch web --to b -c a.toml", "to the node called b"],
      ),
    )
    .action(async (service, options) =>
      done(await (await import("./ask.ts")).switchService(service, options))
    );

  addAskOptions(program.command("restart"))
    .description(
      'end a server and start it again without its clients noticing (mode = "log", or "hot" with a table log)',
    )
    .argument("<service>", "name of the service")
    .addHelpText(
      "after",
      examples(
        ["holdfast restart web", "after an upgrade of the server's program"],
        ["holdfast restart web -c a.toml", "of the node that is configured so"],
      ),
    )
    .action(async (service, options) =>
      done(await (await import("./ask.ts")).restartService(service, options))
    );

  program.command("witness")
    .description("decide, on a third host, which node may speak when the nodes lose each other")
    .requiredOption("--listen <HOST:PORT>", "address and port to answer on")
    .requiredOption("--state <FILE>", "file that keeps the decisions; must survive a reboot")
    .addOption(logFormatOption())
    .addOption(logLevelOption())
    .addHelpText(
      "after",
      examples([
        "holdfast witness --listen 10.0.0.9:7950 --state /var/lib/holdfast/witness",
        "for any number of clusters",
      ]),
    )
    .action(async (options) => done(await (await import("./witness.ts")).witness(options)));

  program.command("check")
    .description("check a configuration and whether this host is ready for it")
    .addOption(configOption().makeOptionMandatory())
    .addOption(jsonOption())
    .addHelpText(
      "after",
      examples(["holdfast check -c /etc/holdfast.toml", "says what is missing and how to get it"]),
    )
    .action(async (options) => done(await (await import("./check.ts")).check(options)));

  const keys = program.command("keys")
    .description("make the cluster's certificate authority and its nodes' certificates")
    .addHelpText(
      "after",
      examples(
        ["holdfast keys init --dir keys", "once, on a machine you trust"],
        ["holdfast keys issue a --dir keys", "for each host; copy a.pem, a.key and ca.pem there"],
        [
          "holdfast keys issue a --dir keys --renew",
          "before it ends; the daemon reads it by itself",
        ],
      ),
    );
  addKeysOptions(keys.command("init"), "3650")
    .description("make a certificate authority: ca.pem and ca.key")
    .option("--name <name>", "what people call the cluster", "Holdfast cluster")
    .action(async (options) => done(await (await import("./keys.ts")).init(options)));
  addKeysOptions(keys.command("issue"), "825")
    .description("make a node's certificate: NODE.pem and NODE.key")
    .argument("<node>", "the node's name, as in its configuration")
    .action(async (node, options) => done(await (await import("./keys.ts")).issue(node, options)));

  program.command("demo")
    .description("let a client's connection survive its server's end, on hosts made of namespaces")
    .addOption(
      new Option("--service <kind>", "what the client does")
        .choices(["file", "echo", "upload"]).default("file"),
    )
    .addOption(
      new Option("--fault <kind>", "what happens to the primary host")
        .choices(["crash", "switch", "none"]).default("crash"),
    )
    .option("--size <size>", "how much is transferred", sizeText, "2GiB")
    .option("--ipv6", "use IPv6", false)
    .option("--keep", "keep the hosts afterwards, to look around", false)
    .option("--svg <FILE>", "write the throughput over time as a picture")
    .addHelpText(
      "after",
      examples(
        ["holdfast demo", "kill the primary host during a download"],
        ["holdfast demo --service upload --ipv6", "during an upload"],
        ["holdfast demo --fault switch --svg gap.svg", "a planned move, with a picture"],
      ),
    )
    .action(async (options) => done(await (await import("../lab/demo.ts")).demo(options)));

  program.command("lab")
    .description("keep the demo's hosts up to play with, with a menu of faults")
    .option("--ipv6", "use IPv6", false)
    .addHelpText("after", examples(["holdfast lab", "prints how to enter each host"]))
    .action(async (options) => done(await (await import("../lab/lab.ts")).lab(options)));

  program.command("bench")
    .description("measure this machine: gaps, throughput, round trips, the core")
    .argument(
      "[args...]",
      "core, path, takeover, papers or alarms with options that `holdfast bench SUITE --help` lists; " +
        "report or readme, which write what the last runs found",
    )
    .allowUnknownOption()
    .passThroughOptions()
    .addHelpText(
      "after",
      examples(
        ["holdfast bench", "all suites, in full"],
        ["holdfast bench --quick", "all suites, smaller runs"],
        ["holdfast bench --against bench/out", "all suites, compared with the last run"],
        ["holdfast bench path --rounds 3", "one suite"],
      ),
    )
    .action(async (args) => done(await (await import("../../bench/mod.ts")).bench(args)));

  program.command("completions")
    .description("print a completion script for a shell")
    .addArgument(new Argument("<shell>", "for which shell").choices([...SHELLS]))
    .addHelpText(
      "after",
      examples(
        ["source <(holdfast completions bash)", "in this shell"],
        ["holdfast completions fish | source", "in fish"],
      ),
    )
    .action((shell: Shell) => print(completionScript(program.commands.map(entryOf), shell)));

  return program;
}

function configOption(): Option {
  return new Option("-c, --config <FILE>", "configuration file");
}

function logFormatOption(): Option {
  return new Option("--log-format <format>", "form of log lines on standard error")
    .choices(["text", "json"]).default("text");
}

function logLevelOption(): Option {
  return new Option("--log-level <level>", "least grave level that is logged")
    .choices(["debug", "info", "warn", "error"]).default("info");
}

function jsonOption(): Option {
  return new Option("--json", "print one JSON document");
}

/** What every command that asks a daemon takes. */
function addAskOptions(command: Command): Command {
  return command
    .addOption(configOption())
    .option("--control <PATH>", "control socket (default: the only one in /run/holdfast)")
    .addOption(jsonOption());
}

/** What both commands that make certificates take. */
function addKeysOptions(command: Command, days: string): Command {
  return command
    .option("--dir <PATH>", "directory of the files", ".")
    .option("--days <days>", "how long the certificate is valid", days)
    .option("--renew", "make a new certificate for the key that is there", false);
}

function examples(...lines: [command: string, text: string][]): string {
  const width = Math.max(...lines.map(([command]) => command.length));
  const list = lines.map(([command, text]) => `  ${command.padEnd(width)}   ${text}`);
  return `\nExamples:\n${list.join("\n")}`;
}

/** Passes on what the demo can read. */
function sizeText(text: string): string {
  if (/^\d+(\.\d+)?\s?(B|KiB|MiB|GiB)$/.test(text)) return text;
  throw new UsageError(`Cannot read the size "${text}": allowed is "512KiB", "64MiB", "1.5GiB"`);
}

function entryOf(command: Command): CommandEntry {
  const help: OptionEntry = { flags: ["-h", "--help"], text: "show help", value: "none" };
  return {
    name: command.name(),
    text: command.description(),
    options: [...command.options.map(optionEntryOf), help],
    words: [
      ...command.commands.map((each) => each.name()),
      ...command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? []),
    ],
  };
}

function optionEntryOf(option: Option): OptionEntry {
  const { short, long, description } = option;
  const flags = [short, long].filter((flag) => flag !== undefined && flag !== null);
  return { flags, text: description, value: valueOf(option) };
}

/** Names of values that are files. */
const FILE_VALUES = ["FILE", "PATH"];

function valueOf(option: Option): OptionEntry["value"] {
  if (!option.required && !option.optional) return "none";
  if (option.argChoices !== undefined) return option.argChoices;
  const name = /<([^>]+)>/.exec(option.flags)?.[1] ?? "";
  return FILE_VALUES.includes(name) ? "file" : "any";
}
