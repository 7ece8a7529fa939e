/**
 * cli_test.ts - the program as a person or a script meets it: words, exit status, both streams
 */
import { deepStrictEqual, match, notStrictEqual, ok, strictEqual } from "node:assert/strict";
import { onlySocketIn } from "../../runtime/cli/ask.ts";
import { commandTable } from "../../runtime/cli/program.ts";
import { startControl } from "../../runtime/control.ts";
import { loadIdentity } from "../../runtime/identity.ts";
import type { NodeStatus } from "../../runtime/status.ts";

const MAIN = new URL("../../runtime/main.ts", import.meta.url).pathname;
/** A command that takes longer hangs. */
const RUN_TIMEOUT_MS = 20_000;

interface Outcome {
  code: number;
  out: string;
  err: string;
}

async function holdfast(...args: string[]): Promise<Outcome> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", MAIN, ...args],
    signal: AbortSignal.timeout(RUN_TIMEOUT_MS),
  }).output();
  const decoder = new TextDecoder();
  return { code, out: decoder.decode(stdout), err: decoder.decode(stderr) };
}

async function withDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "holdfast-test-" });
  try {
    await body(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

const NAMES = commandTable().map(({ name }) => name);

const CONFIG = `
[node]
name = "a"
control = "a.sock"
[[peer]]
name = "b"
links = [ { local = "192.0.2.1:7946", remote = "192.0.2.2:7946" } ]
[cluster]
insecure = true
[[service]]
name = "web"
address = "192.0.2.100"
ports = [80]
interface = "hft-none0"
`;

Deno.test("holdfast --help names every command, and each explains itself with an example", async () => {
  const { code, out, err } = await holdfast("--help");
  strictEqual(code, 0);
  strictEqual(err, "");
  for (const name of NAMES) match(out, new RegExp(`^  ${name} `, "m"));
  for (const name of NAMES) {
    const help = await holdfast(name, "--help");
    strictEqual(help.code, 0);
    match(help.out, /Examples:\n {2}(source <\()?holdfast /, name);
  }
});

Deno.test("holdfast offers nothing that does not exist", () => {
  deepStrictEqual(NAMES, [
    "up",
    "status",
    "connections",
    "switch",
    "restart",
    "witness",
    "check",
    "keys",
    "demo",
    "lab",
    "bench",
    "completions",
  ]);
});

Deno.test("holdfast --version is the version of the project", async () => {
  const project = JSON.parse(
    await Deno.readTextFile(new URL("../../deno.json", import.meta.url)),
  );
  deepStrictEqual(await holdfast("--version"), { code: 0, out: `${project.version}\n`, err: "" });
});

Deno.test("holdfast keys makes an authority and certificates, and overwrites nothing", async () => {
  const dir = await Deno.makeTempDir({ prefix: "holdfast-test-" });
  try {
    const keys = (...args: string[]) => holdfast("keys", ...args, "--dir", `${dir}/keys`);
    const read = (name: string) => Deno.readTextFile(`${dir}/keys/${name}`);
    match((await keys("issue", "a")).err, /make an authority first with "holdfast keys init"/);
    strictEqual((await keys("init")).code, 0);
    strictEqual((await keys("issue", "a")).code, 0);
    for (
      const [name, mode] of [["ca.pem", 0o644], ["a.pem", 0o644], ["ca.key", 0o600], [
        "a.key",
        0o600,
      ]] as const
    ) {
      strictEqual((await Deno.stat(`${dir}/keys/${name}`)).mode! & 0o777, mode, name);
    }
    const made = { cert: await read("a.pem"), key: await read("a.key") };
    const again = await keys("issue", "a");
    deepStrictEqual([again.code, await read("a.pem"), await read("a.key")], [
      1,
      made.cert,
      made.key,
    ]);
    match(again.err, /it is there already; --renew/);
    strictEqual((await keys("init")).code, 1);
    strictEqual((await keys("issue", "a", "--renew", "--days", "30")).code, 0);
    strictEqual(await read("a.key"), made.key);
    notStrictEqual(await read("a.pem"), made.cert);
    strictEqual((await keys("init", "--renew")).code, 0);
    const files = { ca: `${dir}/keys/ca.pem`, cert: `${dir}/keys/a.pem`, key: `${dir}/keys/a.key` };
    strictEqual((await loadIdentity("a", files)).warnings.length, 1);
    const wrong: [string[], number, RegExp][] = [
      [["issue", "a/b"], 2, /Cannot issue a certificate for "a\/b"/],
      [["issue", "ca"], 2, /Cannot call a node "ca"/],
      [["issue", "b", "--days", "0"], 2, /Cannot use --days 0: allowed is a number from 1/],
      [["issue", "b", "--days", "36500"], 1, /the authority's own ends at/],
      [["issue", "b", "--renew"], 1, /Cannot renew .*b\.pem with the key/],
    ];
    for (const [args, code, pattern] of wrong) {
      const result = await keys(...args);
      strictEqual(result.code, code, result.err);
      match(result.err, pattern);
    }
    const names = [...Deno.readDirSync(`${dir}/keys`)].map(({ name }) => name).sort();
    deepStrictEqual(names, ["a.key", "a.pem", "ca.key", "ca.pem"]);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("holdfast exits with 2 when it is not used as it can be", async () => {
  const cases: [string[], RegExp][] = [
    [[], /Usage: holdfast/],
    [["foo"], /unknown command 'foo'/],
    [["statsu"], /Did you mean status/],
    [["status", "--jsno"], /unknown option '--jsno'/],
    [["switch"], /missing required argument 'service'/],
    [["up"], /required option '-c, --config <FILE>' not specified/],
    [["up", "-c", "x", "--log-format", "xml"], /Allowed choices are text, json/],
    [["status", "-c", "x", "--control", "y"], /Cannot use both -c and --control/],
    [["demo", "--size", "big"], /Cannot read the size "big": allowed is "512KiB"/],
    [["completions", "tcsh"], /Allowed choices are bash, zsh, fish/],
  ];
  for (const [args, expected] of cases) {
    const { code, out, err } = await holdfast(...args);
    strictEqual(code, 2, `${args}: ${err}`);
    strictEqual(out, "");
    match(err, expected);
  }
});

Deno.test("holdfast up exits with 2 on a configuration it cannot use, with every problem", async () => {
  await withDirectory(async (directory) => {
    const path = `${directory}/a.toml`;
    await Deno.writeTextFile(path, CONFIG.replace("[80]", "[0]").replace("insecure", "unsecure"));
    const bad = await holdfast("up", "-c", path);
    strictEqual(bad.code, 2);
    match(bad.err, /a\.toml: service\[0\]\.ports\[0\]: found 0, allowed: a whole number from 1/);
    match(bad.err, /a\.toml: cluster\.unsecure: unknown key .* nearest known key is "insecure"/);
    match(bad.err, /a\.toml: cluster\.insecure: missing/);

    const disk = 'mode = "log"\ncommit = "ack"\nlog = { store = "disk" }\nports';
    await Deno.writeTextFile(path, CONFIG.replace("ports", disk));
    const unsupported = await holdfast("up", "-c", path);
    strictEqual(unsupported.code, 2);
    match(
      unsupported.err,
      /log\.store: found "disk" beside commit = "ack", allowed: commit = "strict"/,
    );

    const missing = await holdfast("up", "-c", `${directory}/none.toml`);
    strictEqual(missing.code, 2);
    match(missing.err, /none\.toml: cannot be read: there is no such file/);
  });
});

Deno.test("holdfast check exits with 1 and says what is missing, in text and in JSON", async () => {
  await withDirectory(async (directory) => {
    const path = `${directory}/a.toml`;
    await Deno.writeTextFile(path, CONFIG);
    const text = await holdfast("check", "-c", path);
    strictEqual(text.code, 1);
    match(
      text.out,
      /^fail {2}web: interface +there is no hft-none0\n +-> use one of this host's: /m,
    );
    match(text.out, /^fail {2}link to b +192\.0\.2\.1 is no address of this host$/m);
    match(text.out, /^warn {2}configuration +no arbiter: two hosts/m);

    const json = await holdfast("check", "-c", path, "--json");
    strictEqual(json.code, 1);
    const report = JSON.parse(json.out);
    deepStrictEqual(Object.keys(report), ["file", "ok", "items"]);
    strictEqual(report.ok, false);
    for (const item of report.items) {
      deepStrictEqual(Object.keys(item), ["name", "result", "found", "fix"]);
      ok(["ok", "warn", "fail"].includes(item.result));
    }

    await Deno.writeTextFile(path, "");
    const bad = await holdfast("check", "-c", path, "--json");
    strictEqual(bad.code, 2);
    strictEqual(JSON.parse(bad.out).items[0].name, "configuration");
  });
});

Deno.test("holdfast status, connections and switch ask the daemon of -c or --control", async () => {
  await withDirectory(async (directory) => {
    const status: NodeStatus = {
      node: "a",
      version: "0.1.0",
      services: [],
      peers: [],
      arbiter: null,
    };
    const path = `${directory}/a.sock`;
    await Deno.writeTextFile(`${directory}/a.toml`, CONFIG);
    const silent = await holdfast("status", "-c", `${directory}/a.toml`);
    strictEqual(silent.code, 1);
    match(silent.err, /a\.sock: none is running there; start it with "holdfast up -c FILE"/);

    const server = await startControl(path);
    server.attach({
      status: () => Promise.resolve(status),
      connections: () => Promise.resolve([]),
      switchService: () => Promise.reject(new Error("not reached")),
      restartService: () => Promise.reject(new Error("not reached")),
      stop: () => Promise.resolve(),
    });
    try {
      const text = await holdfast("status", "-c", `${directory}/a.toml`);
      deepStrictEqual([text.code, text.err], [0, ""]);
      match(text.out, /^node a, version 0\.1\.0\n/);
      const json = await holdfast("status", "--control", path, "--json");
      deepStrictEqual([json.code, JSON.parse(json.out)], [0, status]);
      const list = await holdfast("connections", "--control", path, "--json");
      deepStrictEqual([list.code, JSON.parse(list.out)], [0, []]);
      const unknown = await holdfast("switch", "mail", "--control", path);
      deepStrictEqual([unknown.code, unknown.out], [2, ""]);
      match(unknown.err, /Cannot switch "mail": services here are none/);
      const restart = await holdfast("restart", "mail", "--control", path);
      deepStrictEqual([restart.code, restart.out], [2, ""]);
      match(restart.err, /Cannot restart "mail": services here are none/);
    } finally {
      await server.close();
    }
  });
});

Deno.test("onlySocketIn() finds the only daemon of a host and refuses to guess", async () => {
  await withDirectory((directory) => {
    const find = () => {
      try {
        return onlySocketIn(directory);
      } catch (error) {
        return (error as Error).message;
      }
    };
    match(find(), /no daemon has a socket in .*; use -c FILE or --control PATH/);
    const first = Deno.listen({ transport: "unix", path: `${directory}/a.sock` });
    strictEqual(find(), `${directory}/a.sock`);
    const second = Deno.listen({ transport: "unix", path: `${directory}/b.sock` });
    match(find(), /several daemons have a socket in .*a\.sock, .*b\.sock/);
    first.close();
    second.close();
    return Promise.resolve();
  });
});
