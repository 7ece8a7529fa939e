/**
 * config_test.ts - holdfast.toml: what is read, and how what is wrong is said
 *
 * Every refusal is checked for the place, the value found and what is allowed.
 */
import { deepStrictEqual, match, ok, strictEqual, throws } from "node:assert/strict";
import {
  type Config,
  ConfigError,
  loadConfig,
  nearest,
  parseConfig,
  parseDuration,
  parseSize,
  warnings,
} from "../../runtime/config.ts";

/** The file of DESIGN section 8. */
const FULL = `
[node]
name = "a"
state_dir = "/var/lib/holdfast"
control = "/run/holdfast/a.sock"         # HTTP over a Unix socket: status, commands, metrics

[[peer]]
name = "b"
links = [ { local = "10.0.0.1:7946", remote = "10.0.0.2:7946" } ]   # two or more recommended

[cluster]
tls = { ca = "ca.pem", cert = "a.pem", key = "a.key" }   # or: insecure = true
heartbeat = "10ms"
detect = 3
arbiter = { kind = "witness", address = "10.0.0.9:7950" }

[[service]]
name = "web"
address = "10.0.0.100"                    # what clients dial; IPv4 or IPv6; moves between hosts
ports = [80]
interface = "eth0"                        # where clients arrive
prefer = "a"                              # primary at first start; no automatic fail-back
mode = "hot"                              # hot | log
commit = "strict"                         # strict | ack
run = ["nginx", "-g", "daemon off;"]      # optional; else start it yourself in the namespace
user = "www-data"                         # optional
netns = "hf-web"                          # made if missing; default hf-<name>
divergence = "reset"                      # reset | unprotect | ignore
fin_wait = "2s"
lag_bytes = "4MiB"
lag_time = "2s"
`;

/** The least a service needs. */
const SMALL = `
[node]
name = "a"
[[service]]
name = "web"
address = "FD00:0::100"
ports = [80, 443]
interface = "eth0"
`;

/** Two hosts, as far as this version goes. */
const PAIR = FULL.replace(/^tls = .*$/m, "insecure = true").replace(/^arbiter = .*$/m, "");

const FULL_CONFIG: Config = {
  file: "/etc/holdfast/holdfast.toml",
  node: { name: "a", stateDir: "/var/lib/holdfast", control: "/run/holdfast/a.sock" },
  peers: [{ name: "b", links: [{ local: "10.0.0.1:7946", remote: "10.0.0.2:7946" }] }],
  cluster: {
    name: "a+b",
    tls: {
      ca: "/etc/holdfast/ca.pem",
      cert: "/etc/holdfast/a.pem",
      key: "/etc/holdfast/a.key",
      renewMs: 600_000,
      renewOctets: 64 * 2 ** 30,
    },
    insecure: false,
    heartbeatMs: 10,
    detect: 3,
    spinUs: 200,
    arbiter: { kind: "witness", address: "10.0.0.9:7950" },
  },
  services: [{
    name: "web",
    address: "10.0.0.100",
    ports: [80],
    interface: "eth0",
    prefer: "a",
    mode: "hot",
    keepsLogs: false,
    commit: "strict",
    run: ["nginx", "-g", "daemon off;"],
    user: "www-data",
    health: null,
    clockBaseS: null,
    netns: "hf-web",
    uplink: true,
    divergence: "reset",
    unprotectable: "pass",
    finWaitMs: 2000,
    commitCopies: 1,
    lagBytes: 4 << 20,
    lagTimeMs: 2000,
    logLimitBytes: 8 << 20,
    rejoinLimitBytes: 64 << 10,
    hint: "none",
    log: { store: "memory", limitBytes: 64 << 20, full: "unprotect" },
    memoryBytes: 256 << 20,
    maxConnections: 65536,
  }],
};

function problemsOf(text: string): string[] {
  try {
    parseConfig(text, "holdfast.toml");
  } catch (error) {
    if (error instanceof ConfigError) return error.message.split("\n");
    throw error;
  }
  return [];
}

Deno.test("parseConfig() reads every key of the documented file", () => {
  deepStrictEqual(parseConfig(FULL, "/etc/holdfast/holdfast.toml"), FULL_CONFIG);
});

Deno.test("parseConfig() gives plain data that a worker can be handed", () => {
  deepStrictEqual(structuredClone(FULL_CONFIG), parseConfig(FULL, "/etc/holdfast/holdfast.toml"));
});

Deno.test("parseConfig() fills in defaults, and a node may be alone", () => {
  const { node, peers, cluster, services } = parseConfig(SMALL, "/etc/x.toml");
  deepStrictEqual(node, {
    name: "a",
    stateDir: "/var/lib/holdfast",
    control: "/run/holdfast/a.sock",
  });
  deepStrictEqual(peers, []);
  strictEqual(cluster.insecure, false);
  const expected = { ...FULL_CONFIG.services[0], address: "fd00::100", ports: [80, 443] };
  deepStrictEqual(services, [{ ...expected, prefer: null, run: null, user: null }]);
});

Deno.test("parseConfig() reads every arbiter", () => {
  const etcd = FULL.replace(
    /^arbiter = .*$/m,
    'arbiter = { kind = "etcd", endpoints = ["http://e:1"] }',
  );
  deepStrictEqual(parseConfig(etcd, "x").cluster.arbiter, {
    kind: "etcd",
    endpoints: ["http://e:1"],
  });
  const fence = FULL.replace(
    /^arbiter = .*$/m,
    'arbiter = { kind = "fence", command = ["fence_ipmilan", "-a"], gateway = "10.0.0.254" }',
  );
  deepStrictEqual(parseConfig(fence, "x").cluster.arbiter, {
    kind: "fence",
    command: ["fence_ipmilan", "-a"],
    gateway: "10.0.0.254",
  });
});

/** What is replaced in PAIR, by what, and what must be said about it. */
const BAD: [RegExp, string, string][] = [
  [/name = "a"/, "name = 7", "node.name: found 7, allowed: a name of 1 to 32 letters"],
  [/name = "a"/, 'name = "-a"', 'node.name: found "-a", allowed: a name of 1 to 32 letters'],
  [/name = "a"/, "name = 2026-11-22", "node.name: found 2026-11-22, allowed: a name"],
  [/name = "a"\n/, "", "node.name: missing, allowed: a name of 1 to 32 letters"],
  [/name = "a"/, 'name = "b"', 'peer[0].name: found "b" as in node.name, allowed: each value once'],
  [
    /state_dir/,
    "statedir",
    'node.statedir: unknown key of [node], found "/var/lib/holdfast"; the ' +
    'nearest known key is "state_dir"; allowed are name, state_dir, control',
  ],
  [
    /\[node\]/,
    '[node]\nheartbeat = "1ms"',
    "node.heartbeat: unknown key of [node], found " +
    '"1ms"; it belongs to [cluster]',
  ],
  [
    /\[node\]/,
    "[nodes]",
    "nodes: unknown key of the top level, found a table; the nearest known " +
    'key is "node"; allowed are node, peer, cluster, service',
  ],
  [/\[node\]/, "[[node]]", "node: found [{"],
  [/\[\[service\]\]/, "[service]", "service: found a table, allowed: tables [[service]]"],
  [/\/run\/holdfast\/a.sock/, "/" + "x".repeat(107), "allowed: a path of at most 107 octets"],
  [
    /"10.0.0.1:7946"/,
    '"10.0.0.1"',
    'peer[0].links[0].local: found "10.0.0.1", allowed: an ' +
    'address and port, "10.0.0.1:7946" or "[fd00::1]:7946"',
  ],
  [/"10.0.0.1:7946"/, '"10.0.0.1:0"', 'peer[0].links[0].local: found "10.0.0.1:0", allowed'],
  [
    /"10.0.0.2:7946"/,
    '"[fd00::2]:7946"',
    'peer[0].links[0].remote: found "[fd00::2]:7946" beside ' +
    'local "10.0.0.1:7946", allowed: two addresses of one IP version',
  ],
  [/"10.0.0.2:7946"/, '"10.0.0.1:7946"', "allowed: the peer's own address, other than local"],
  [/links = .*/, "links = []", "peer[0].links: found [], allowed: a list of 1 to 8 links"],
  [/links = .*/, "", "peer[0].links: missing, allowed: a list of 1 to 8 links"],
  [/"10.0.0.2:7946" }/, '"10.0.0.2:7946", via = 1 }', "peer[0].links[0].via: unknown key of links"],
  [/insecure = true/, "", "cluster.insecure: missing, allowed: true, which accepts"],
  [/insecure = true/, "insecure = false", "cluster.insecure: found false, allowed: true"],
  [/insecure = true/, 'insecure = "yes"', 'cluster.insecure: found "yes", allowed: true or false'],
  [
    /insecure = true/,
    'insecure = true\ntls = { ca = "c", cert = "c", key = "k" }',
    "cluster.insecure: found true beside tls, allowed: one of the two",
  ],
  [
    /insecure = true/,
    'tls = { ca = "c", cert = "c", key = "k", renew = "1ms" }',
    'cluster.tls.renew: found "1ms", allowed: a duration from "1s" to "24h"',
  ],
  [/insecure = true/, 'tls = { ca = "c" }', "cluster.tls.cert: missing, allowed: a file name"],
  [/"10ms"/, "10", 'cluster.heartbeat: found 10, allowed: a duration from "1ms" to "10s"'],
  [/"10ms"/, '"10"', 'cluster.heartbeat: found "10", allowed: a duration from "1ms" to "10s"'],
  [/"10ms"/, '"1us"', 'cluster.heartbeat: found "1us", allowed: a duration from "1ms" to "10s"'],
  [/detect = 3/, "detect = 1", "cluster.detect: found 1, allowed: a whole number from 2 to 100"],
  [/detect = 3/, "detect = 2.5", "cluster.detect: found 2.5, allowed: a whole number"],
  [/detect = 3/, 'spin = "1s"', 'cluster.spin: found "1s", allowed: a duration from "0us"'],
  [
    /detect = 3/,
    'arbiter = { kind = "zk" }',
    'cluster.arbiter.kind: found "zk", allowed: ' +
    '"witness", "etcd" or "fence"',
  ],
  [
    /detect = 3/,
    "arbiter = 5",
    'cluster.arbiter: found 5, allowed: a table whose kind is "witness"',
  ],
  [
    /detect = 3/,
    'arbiter = { kind = "etcd", address = "10.0.0.9:1" }',
    "cluster.arbiter.endpoints: missing, allowed: a list of URLs",
  ],
  [/"10.0.0.100"/, '"10.0.0.300"', 'service[0].address: found "10.0.0.300", allowed: an IPv4'],
  [/"10.0.0.100"/, '"127.0.0.1"', 'service[0].address: found "127.0.0.1", allowed: an IPv4'],
  [/"10.0.0.100"/, '"fe80::1"', 'service[0].address: found "fe80::1", allowed: an IPv4'],
  [/\[80\]/, "80", "service[0].ports: found 80, allowed: a list of 1 to 64 TCP ports, [80]"],
  [/\[80\]/, "[]", "service[0].ports: found [], allowed: a list of 1 to 64 TCP ports, [80]"],
  [/\[80\]/, "[80, 70000]", "service[0].ports[1]: found 70000, allowed: a whole number from 1 to"],
  [/\[80\]/, "[80, 80]", "service[0].ports[1]: found 80 as in service[0].ports[0], allowed: each"],
  [/"eth0"/, '"eth0/1"', 'service[0].interface: found "eth0/1", allowed: the name of a network'],
  [/"eth0"/, `"${"e".repeat(16)}"`, "service[0].interface: found"],
  [
    /prefer = "a"/,
    'prefer = "c"',
    'service[0].prefer: found "c", allowed: a node of the cluster: ' +
    '"a" or "b"',
  ],
  [/mode = "hot"/, 'mode = "warm"', 'service[0].mode: found "warm", allowed: "hot" or "log"'],
  [
    /commit = "strict"/,
    'commit = "strct"',
    'service[0].commit: found "strct", allowed: "strict" ' +
    'or "ack"; did you mean "strict"?',
  ],
  [/run = .*/, 'run = "nginx"', 'service[0].run: found "nginx", allowed: a list of program and'],
  [/run = .*/, "run = []", "service[0].run: found [], allowed: a list of program and"],
  [
    /run = .*/,
    'run = ["", "x"]',
    'service[0].run: found ["","x"], allowed: a list of program and',
  ],
  [/user = .*/, 'user = "a b"', 'service[0].user: found "a b", allowed: the name of a user'],
  [/"4MiB"/, '"4MB"', 'service[0].lag_bytes: found "4MB", allowed: a size from "1KiB" to "1GiB"'],
  [/lag_time = "2s"/, 'memory = "1MiB"', 'service[0].memory: found "1MiB", allowed: a size from'],
  [/lag_time = "2s"/, "max_connections = 0", "service[0].max_connections: found 0, allowed"],
  [
    /lag_time = "2s"/,
    'unprotectable = "drop"',
    'service[0].unprotectable: found "drop", allowed: ' +
    '"pass" or "refuse"',
  ],
  [/divergence/, "divergance", 'the nearest known key is "divergence"'],
];

Deno.test("parseConfig() says key, value and what is allowed", async (t) => {
  for (const [pattern, replacement, expected] of BAD) {
    await t.step(`${replacement.slice(0, 40) || `no ${pattern.source}`} -> ${expected}`, () => {
      const problems = problemsOf(PAIR.replace(pattern, replacement));
      ok(problems.every((line) => line.startsWith("holdfast.toml: ")), problems.join("\n"));
      ok(problems.some((line) => line.includes(expected)), problems.join("\n"));
    });
  }
});

Deno.test("parseConfig() reports all problems of a file at once", () => {
  const text = PAIR.replace("10ms", "10").replace("[80]", "[0]").replace('"b"', '"a"')
    .replace("fin_wait", "finwait");
  const places = problemsOf(text).map((line) => line.split(": ")[1]);
  deepStrictEqual(places, [
    "cluster.heartbeat",
    "service[0].ports[0]",
    "service[0].finwait",
    "peer[0].name",
  ]);
});

Deno.test("parseConfig() says line and column of what is not TOML", () => {
  deepStrictEqual(problemsOf("[node]\nname = \n"), [
    "holdfast.toml: line 2, column 8: not TOML: invalid value",
  ]);
});

Deno.test("parseConfig() refuses two services with one name, address or namespace", () => {
  const service = SMALL.slice(SMALL.indexOf("[[service]]"));
  const other = service.replace('"FD00:0::100"', '"fd00::100"');
  deepStrictEqual(problemsOf(SMALL + other), [
    'holdfast.toml: service[1].name: found "web" as in service[0].name, allowed: each value once',
    'holdfast.toml: service[1].address: found "fd00::100" as in service[0].address, allowed: each value once',
    'holdfast.toml: service[1].netns: found "hf-web" as in service[0].netns, allowed: each value once',
  ]);
});

Deno.test("parseConfig() refuses keys that objects have by themselves", () => {
  for (const key of ["constructor", "__proto__", "toString"]) {
    const problems = problemsOf(SMALL.replace("[node]", `[node]\n${key} = 1`)).join("\n");
    ok(problems.includes(`node.${key}: unknown key`), problems);
  }
});

Deno.test("loadConfig() says which file it cannot read", async () => {
  const path = `${await Deno.makeTempDir()}/none.toml`;
  try {
    await loadConfig(path);
  } catch (error) {
    strictEqual((error as Error).message, `${path}: cannot be read: there is no such file`);
    return;
  } finally {
    await Deno.remove(path.replace("/none.toml", ""));
  }
  throw new Error("loadConfig() accepted a file that is not there");
});

Deno.test("parseConfig() takes several peers beside a register only", () => {
  const third =
    '[[peer]]\nname = "c"\nlinks = [ { local = "10.0.1.1:7946", remote = "10.0.1.3:7946" } ]\n';
  const full = FULL.replace("[cluster]", `${third}[cluster]`);
  deepStrictEqual(parseConfig(full, "x").peers.map(({ name }) => name), ["b", "c"]);
  throws(
    () => parseConfig(full.replace(/arbiter = .*/, ""), "x"),
    /cluster\.arbiter: found none beside 2 tables \[\[peer\]\], allowed: kind = "witness" or "etcd"/,
  );
  const fence = 'arbiter = { kind = "fence", command = ["/bin/true"], gateway = "10.0.0.254" }';
  throws(() => parseConfig(full.replace(/arbiter = .*/, fence), "x"), /found "fence" beside 2/);
});

Deno.test("parseConfig() takes a log's bounds, and on disk in log mode only", () => {
  const text = (lines: string) => SMALL.replace("[[service]]", `[[service]]\n${lines}`);
  const bounds = 'mode = "log"\nlog = { limit = "1MiB", full = "hold" }';
  deepStrictEqual(parseConfig(text(bounds), "x").services[0].log, {
    store: "memory",
    limitBytes: 1 << 20,
    full: "hold",
  });
  const refused: [string, RegExp][] = [
    ['mode = "log"\ncommit = "ack"\nlog = { store = "disk" }', /log\.store: .* commit = "ack", /],
    ['log = { store = "disk" }', /log\.store: found "disk" beside mode = "hot", allowed: "memory"/],
    ['mode = "log"\nlog_limit = "1MiB"', /log_limit: .* only beside mode = "hot"; for "log" it is/],
    ['mode = "log"\nrejoin_limit = "1MiB"', /rejoin_limit: .* only beside mode = "hot"; for "log"/],
    ['log = {}\nlog_limit = "1MiB"', /log_limit: .* beside mode = "hot"; with a table log it is/],
    ['log = {}\nrejoin_limit = "1MiB"', /rejoin_limit: .* beside mode = "hot"; with a table log/],
    ['hint = "http/1.1"\ndivergence = "ignore"', /hint: .* divergence = "ignore", /],
    ['hint = "http/1.1"\nrejoin_limit = "0B"', /hint: .* rejoin_limit = "0B", /],
    ['hint = "http/2"', /hint: found "http\/2", allowed: "none" or "http\/1.1"/],
  ];
  for (const [lines, expected] of refused) match(problemsOf(text(lines)).join("\n"), expected);
  const disk = 'mode = "log"\nlog = { store = "disk" }';
  strictEqual(parseConfig(text(disk), "x").services[0].log.store, "disk");
});

Deno.test("parseConfig() lets a hot host keep whole logs, as one in log mode does", () => {
  const read = (lines: string) =>
    parseConfig(SMALL.replace("[[service]]", `[[service]]\n${lines}`), "x").services[0];
  const kept = (lines: string) => [read(lines).keepsLogs, read(lines).log.limitBytes];
  deepStrictEqual(kept(""), [false, 64 << 20]);
  deepStrictEqual(kept("log = {}"), [true, 64 << 20]);
  deepStrictEqual(kept('log = { limit = "1MiB" }'), [true, 1 << 20]);
  deepStrictEqual(kept('mode = "log"'), [true, 64 << 20]);
});

Deno.test("parseConfig() takes logs on disk on two hosts beside an arbiter that is a register", () => {
  const pair = FULL.replace('mode = "hot" ', 'mode = "log"\nlog = { store = "disk" }');
  strictEqual(parseConfig(pair, "x").services[0].log.store, "disk");
  const arbiter = /arbiter = .*/;
  const etcd = 'arbiter = { kind = "etcd", endpoints = ["http://10.0.0.9:2379"] }';
  strictEqual(parseConfig(pair.replace(arbiter, etcd), "x").services[0].log.store, "disk");
  const fence = 'arbiter = { kind = "fence", command = ["/bin/true"], gateway = "10.0.0.254" }';
  const third =
    '[[peer]]\nname = "c"\nlinks = [{ local = "10.0.1.1:7946", remote = "10.0.1.3:7946" }]\n';
  const refused: [string, RegExp][] = [
    [pair.replace(arbiter, fence), /found "disk" beside cluster\.arbiter of kind "fence", allowed/],
    [pair.replace(arbiter, ""), /log\.store: found "disk" without an arbiter, allowed: kind =/],
    [pair.replace("[cluster]", `${third}\n[cluster]`), /found "disk" beside 2 tables \[\[peer\]\]/],
    [
      pair.replace(/\[\[peer\]\][^]*?(?=\[cluster\])/, ""),
      /"disk" beside cluster\.arbiter, allowed/,
    ],
  ];
  for (const [text, expected] of refused) match(problemsOf(text).join("\n"), expected);
});

const THIRD = '[[peer]]\nname = "c"\n' +
  'links = [ { local = "10.0.1.1:7946", remote = "10.0.1.3:7946" } ]\n';

Deno.test("parseConfig() takes a hint beside one peer at most", () => {
  const text = FULL.replace(/commit = .*/, 'hint = "http/1.1"');
  strictEqual(parseConfig(text, "x").services[0].hint, "http/1.1");
  const expected =
    /hint: found "http\/1.1" beside 2 tables \[\[peer\]\], allowed: one peer at most/;
  match(problemsOf(`${text}\n${THIRD}`).join("\n"), expected);
});

Deno.test("parseConfig() takes no more copies than peers, and more than one only with strict commit", () => {
  const text = (lines: string) => FULL.replace(/commit = .*/, lines);
  const two = parseConfig(`${text('commit = "strict"\ncommit_copies = 2')}\n${THIRD}`, "x");
  strictEqual(two.services[0].commitCopies, 2);
  const refused: [string, RegExp][] = [
    [text("commit_copies = 2"), /commit_copies: found 2 beside 1 tables .*, allowed: at most 1/],
    [text("commit_copies = 0"), /commit_copies: found 0, allowed: a whole number from 1 to 7/],
    [
      `${text('commit = "ack"\ncommit_copies = 2')}\n${THIRD}`,
      /commit_copies: found 2 beside commit = "ack", allowed: commit = "strict", or 1/,
    ],
  ];
  for (const [lines, problem] of refused) match(problemsOf(lines).join("\n"), problem);
});

Deno.test("parseConfig() takes empty arguments of a command", () => {
  const run = ["redis-server", "--save", ""];
  const [service] =
    parseConfig(FULL.replace(/run = .*/, `run = ${JSON.stringify(run)}`), "x").services;
  deepStrictEqual(service.run, run);
});

Deno.test("parseConfig() takes a clock base beside faketime only, and that beside run only", () => {
  const text = (lines: string) => SMALL.replace("[[service]]", `[[service]]\n${lines}`);
  const run = 'run = ["server"]';
  const faketime = 'determinism = "faketime"';
  const base = (time: string) => `clock_base = "${time}"`;
  const baseOf = (...lines: string[]) =>
    parseConfig(text(lines.join("\n")), "x").services[0].clockBaseS;
  strictEqual(baseOf(run), null);
  strictEqual(baseOf(run, faketime), Date.UTC(2026, 0, 1) / 1000);
  strictEqual(baseOf(run, faketime, base("2001-09-09T01:46:40Z")), 1e9);
  const refused: [string[], RegExp][] = [
    [[faketime], /determinism: found "faketime" without run, allowed: only for a server/],
    [[run, base("2001-09-09T01:46:40Z")], /clock_base: .* only beside determinism = "faketime"/],
    [[run, faketime, base("2001-09-09 01:46:40")], /clock_base: .* a time in UTC like/],
    [[run, faketime, base("1969-09-09T01:46:40Z")], /clock_base: .* from 1970 on/],
    [[run, 'determinism = "yes"'], /determinism: found "yes", allowed: "none" or "faketime"/],
  ];
  for (const [lines, expected] of refused) {
    match(problemsOf(text(lines.join("\n"))).join("\n"), expected);
  }
});

Deno.test("parseConfig() reads a health command, and when it is run", () => {
  const text = (health: string) => SMALL.replace("[[service]]", `[[service]]\nhealth = ${health}`);
  const healthOf = (health: string) => parseConfig(text(health), "x").services[0].health;
  deepStrictEqual(healthOf('{ command = ["true"] }'), {
    command: ["true"],
    everyMs: 1000,
    timeoutMs: 2000,
    failures: 3,
  });
  const all = '{ command = ["sh", "-c", "x"], every = "10s", timeout = "500ms", failures = 1 }';
  deepStrictEqual(healthOf(all), {
    command: ["sh", "-c", "x"],
    everyMs: 10_000,
    timeoutMs: 500,
    failures: 1,
  });
  const refused: [string, RegExp][] = [
    ['["true"]', /health: found .* a table with command, every, timeout, failures/],
    ["{ failures = 3 }", /health\.command: missing, allowed: a list of program and arguments/],
    ['{ command = "true" }', /health\.command: found "true", allowed: a list of program/],
    ['{ command = ["true"], failures = 0 }', /health\.failures: found 0, allowed: a whole number/],
    ['{ command = ["true"], timeout = 2 }', /health\.timeout: found 2, allowed: a duration from/],
    ['{ command = ["true"], retries = 2 }', /health\.retries: unknown key of health/],
  ];
  for (const [health, expected] of refused) match(problemsOf(text(health)).join("\n"), expected);
});

Deno.test("parseConfig() keeps the port above each link's free for the control connection", () => {
  const text = (links: string) => FULL.replace(/^links = .*$/m, `links = [ ${links} ]`);
  const high = text('{ local = "10.0.0.1:65535", remote = "10.0.0.2:65535" }');
  throws(() => parseConfig(high, "x"), /links\[0\]\.local: .* a port below 65535/);
  throws(() => parseConfig(high, "x"), /links\[0\]\.remote: .* a port below 65535/);
  const near = '{ local = "10.0.0.1:7946", remote = "10.0.0.2:7946" }, ' +
    '{ local = "10.0.0.1:7947", remote = "10.0.0.3:7946" }';
  throws(() => parseConfig(text(near), "x"), /10\.0\.0\.1:7947 is another link's/);
  const plain = text(near).replace(/^tls = .*$/m, "insecure = true");
  strictEqual(parseConfig(plain, "x").peers[0].links.length, 2);
});

Deno.test("warnings() names the risks of plain text, of no arbiter, of no peer and of known chance", () => {
  const pair = warnings(parseConfig(PAIR, "x"));
  strictEqual(pair.length, 2);
  ok(pair[0].includes("plain text"));
  ok(pair[1].includes("both become primary"));
  ok(warnings(parseConfig(SMALL, "x"))[0].includes("nobody can take over"));
  const log = parseConfig(SMALL.replace("[[service]]", '[[service]]\nmode = "log"'), "x");
  ok(warnings(log)[0].includes("survive the end of their server"));
  deepStrictEqual(warnings(parseConfig(FULL, "x")), []);
  const drawn = FULL.replace("[[service]]", '[[service]]\ndeterminism = "faketime"');
  ok(warnings(parseConfig(drawn, "x"))[0].includes("foretell the random numbers of web"));
});

Deno.test("parseDuration() gives microseconds", () => {
  const cases: [string, number | null][] = [
    ["0us", 0],
    ["50us", 50],
    ["10ms", 10_000],
    ["1.5ms", 1500],
    ["2s", 2_000_000],
    ["0.1s", 100_000],
    ["2min", 120_000_000],
    ["1h", 3_600_000_000],
    ["2 s", 2_000_000],
    ["", null],
    ["10", null],
    ["ms", null],
    ["-1ms", null],
    ["1e3ms", null],
    [".5s", null],
    ["1.s", null],
    ["0.5us", null],
    ["1d", null],
    ["1MS", null],
    ["10ms ", null],
    ["999999999999999h", null],
    ["1constructor", null],
  ];
  for (const [text, expected] of cases) strictEqual(parseDuration(text), expected, text);
});

Deno.test("parseSize() gives octets", () => {
  const cases: [string, number | null][] = [
    ["0B", 0],
    ["512B", 512],
    ["64KiB", 65536],
    ["1.5KiB", 1536],
    ["4MiB", 4 << 20],
    ["4 MiB", 4 << 20],
    ["2GiB", 2 ** 31],
    ["64", null],
    ["64K", null],
    ["64KB", null],
    ["64kib", null],
    ["-1B", null],
    ["0.3B", null],
    ["", null],
  ];
  for (const [text, expected] of cases) strictEqual(parseSize(text), expected, text);
});

Deno.test("nearest() counts insertions, deletions, substitutions and exchanges", () => {
  const known = ["heartbeat", "detect", "spin", "insecure"];
  const cases: [string, string, number][] = [
    ["heartbeat", "heartbeat", 0],
    ["hartbeat", "heartbeat", 1],
    ["heartbaet", "heartbeat", 1],
    ["detection", "detect", 3],
    ["spn", "spin", 1],
    ["unsecure", "insecure", 1],
  ];
  for (const [word, expected, distance] of cases) {
    deepStrictEqual(nearest(word, known), { word: expected, distance }, word);
  }
  strictEqual(nearest("x", []), null);
});

Deno.test("ConfigError carries its problems", () => {
  throws(() => parseConfig("", "x.toml"), (error: unknown) => {
    ok(error instanceof ConfigError);
    strictEqual(error.file, "x.toml");
    deepStrictEqual(error.problems.map((problem) => problem.path), ["node", "service"]);
    return true;
  });
});
