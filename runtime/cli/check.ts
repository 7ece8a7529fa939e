/**
 * check.ts - `holdfast check`: is this host ready for its configuration?
 *
 * Theory of operation
 * Every requirement is tried rather than guessed: the TUN device is opened, the core's memory is laid
 * out, the links' ports are bound and given back. Each try gives one item: ok, warn (it works, but not as
 * well as it could) or fail (`up` would not work), with what was found and how to mend it. Nothing on the
 * host is changed, and a node that is running is not disturbed.
 *
 * Limits: programs that are asked have 10 s each.
 * Sources: capabilities(7), ip(8), ethtool(8), Documentation/networking/ip-sysctl.rst.
 */

import { dirname } from "node:path";
import { type Config, ConfigError, loadConfig, type ServiceConfig, warnings } from "../config.ts";
import { isListening } from "../control.ts";
import { loadCore } from "../core.ts";
import { parseAddress } from "../io/address.ts";
import { NOT_FOUND, runCommand } from "../io/command.ts";
import { findFaketime } from "../io/faketime.ts";
import { loadIdentity } from "../identity.ts";
import { CAPABILITIES, type Capability, effectiveCapabilities } from "../io/capabilities.ts";
import { closeAll } from "../io/libc.ts";
import { openLibcrypto } from "../io/libcrypto.ts";
import { bindUdp, listenTcp, parseHostPort } from "../io/socket.ts";
import { readSysctl } from "../io/sysctl.ts";
import { openTun } from "../io/tun.ts";
import { tryDisk } from "./check_disk.ts";
import { EXIT_DONE, EXIT_FAILED, EXIT_USAGE, print, printJson } from "./output.ts";

/** Oldest kernel that is known to do all that is asked of it. */
const KERNEL_MIN = [5, 10] as const;
/** IPv6 does not work below; RFC 8200 section 5. */
const IPV6_MTU_MIN = 1280;
/** Machines whose system calls io/libc.ts describes. */
const ARCHITECTURES = ["x86_64", "aarch64"];

/** What the daemon cannot do without; capabilities(7). */
const NEEDED: Capability[] = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN"];
/** What starting a server as another user takes besides. */
const NEEDED_FOR_USERS: Capability[] = ["CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP"];

/** How a requirement is met. */
export type CheckResult = "ok" | "warn" | "fail";

/** One requirement. */
export interface CheckItem {
  /** What it is about: "kernel", "web: address". */
  name: string;
  /** How it is met. */
  result: CheckResult;
  /** What was found. */
  found: string;
  /** How to mend it; null when nothing can or need be done, or `found` says it. */
  fix: string | null;
}

/** The answer of `holdfast check --json`. */
export interface CheckReport {
  /** The configuration file. */
  file: string;
  /** Whether nothing failed. */
  ok: boolean;
  /** All requirements in the order of trying. */
  items: CheckItem[];
}

/**
 * Checks and prints.
 *
 * @returns The exit status: 1 when something failed, 2 when the configuration cannot be used.
 */
export async function check(options: { config: string; json?: boolean }): Promise<number> {
  let config: Config;
  try {
    config = await loadConfig(options.config);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const items = error.problems.map(({ path, message }) => ({
      name: "configuration",
      result: "fail" as const,
      found: path === "" ? message : `${path}: ${message}`,
      fix: `correct ${error.file}`,
    }));
    show({ file: options.config, ok: false, items }, options.json);
    return EXIT_USAGE;
  }
  const items = await checkHost(config);
  const ok = items.every(({ result }) => result !== "fail");
  show({ file: options.config, ok, items }, options.json);
  return ok ? EXIT_DONE : EXIT_FAILED;
}

function show(report: CheckReport, json: boolean | undefined): void {
  if (json) printJson(report);
  else print(renderReport(report));
}

/** The text of `holdfast check`; ends with a line feed. */
export function renderReport({ items }: CheckReport): string {
  const width = Math.max(...items.map(({ name }) => name.length));
  const lines = items.map(({ name, result, found, fix }) => {
    const line = `${result.padEnd(4)}  ${name.padEnd(width)}  ${found}`;
    return fix === null ? line : `${line}\n${" ".repeat(6 + width)}  -> ${fix}`;
  });
  const count = (result: CheckResult) => items.filter((item) => item.result === result).length;
  return `${lines.join("\n")}\n\n${count("ok")} ok, ${count("warn")} to improve, ` +
    `${count("fail")} to mend\n`;
}

/** Tries every requirement of a configuration on this host. */
export async function checkHost(config: Config): Promise<CheckItem[]> {
  const isRunning = await isNodeRunning(config);
  const interfaces = await listInterfaces();
  const items = [
    ...checkConfig(config),
    checkKernel(),
    checkArchitecture(),
    checkPrivileges(config),
    checkTun(),
    await checkProgram(["ip", "-Version"], "iproute2"),
    ...(config.services.some(({ run }) => run !== null)
      ? [await checkProgram(["setpriv", "--version"], "util-linux")]
      : []),
    ...(config.services.some(({ clockBaseS }) => clockBaseS !== null)
      ? [attempt("faketime", "apt-get install libfaketime", () => `${findFaketime()} is there`)]
      : []),
    ...await checkTls(config),
    await checkStateDirectory(config.node.stateDir),
    isRunning
      ? ok("control", `a node is running at ${config.node.control}`)
      : ok("control", `${config.node.control} is free`),
  ];
  for (const service of config.services) {
    items.push(...await checkService(service, config, interfaces));
    if (service.log.store === "disk") {
      items.push(await checkDisk(service.name, config.node.stateDir));
    }
  }
  for (const peer of config.peers) {
    for (const link of peer.links) {
      items.push(...await checkLink(`link to ${peer.name}`, link, { interfaces, isRunning }));
    }
    if (peer.links.length === 1) {
      items.push(warn(
        `link to ${peer.name}`,
        "there is one: when it fails, both hosts lose sight of each other",
        "add a link over another cable",
      ));
    }
  }
  return items;
}

function ok(name: string, found: string): CheckItem {
  return { name, result: "ok", found, fix: null };
}

function warn(name: string, found: string, fix: string | null): CheckItem {
  return { name, result: "warn", found, fix };
}

function fail(name: string, found: string, fix: string): CheckItem {
  return { name, result: "fail", found, fix };
}

/** Runs a try that throws on failure. */
function attempt(name: string, fix: string, action: () => string): CheckItem {
  try {
    return ok(name, action());
  } catch (error) {
    return fail(name, (error as Error).message, fix);
  }
}

async function isNodeRunning(config: Config): Promise<boolean> {
  try {
    return await isListening(config.node.control);
  } catch (error) {
    if (error instanceof Deno.errors.PermissionDenied) return false;
    throw error;
  }
}

function checkConfig(config: Config): CheckItem[] {
  const name = "configuration";
  const { services, peers } = config;
  return [
    ok(name, `node ${config.node.name}, services: ${services.length}, peers: ${peers.length}`),
    ...warnings(config).map((found) => warn(name, found, null)),
  ];
}

/** Certificates and the library that encrypts. */
async function checkTls({ node, cluster: { tls } }: Config): Promise<CheckItem[]> {
  if (tls === null) return [];
  const name = "encryption";
  const items = [attempt(name, "apt-get install libssl3", () => {
    openLibcrypto();
    return "libcrypto.so.3";
  })];
  try {
    const { notAfter, warnings } = await loadIdentity(node.name, tls);
    items.push(
      ok(name, `${tls.cert} until ${notAfter.toISOString()}`),
      ...warnings.map((found) => warn(name, found, null)),
    );
  } catch (error) {
    items.push(fail(name, (error as Error).message, "holdfast keys --help says how to make them"));
  }
  return items;
}

function checkKernel(): CheckItem {
  const release = Deno.osRelease();
  const [major, minor] = release.split(".").map((part) => parseInt(part));
  const isOld = major < KERNEL_MIN[0] || (major === KERNEL_MIN[0] && minor < KERNEL_MIN[1]);
  if (Deno.build.os !== "linux") {
    return fail("kernel", `${Deno.build.os} ${release}`, "use a Linux host");
  }
  return isOld
    ? warn("kernel", `Linux ${release}`, `use Linux ${KERNEL_MIN.join(".")} or later`)
    : ok("kernel", `Linux ${release}`);
}

function checkArchitecture(): CheckItem {
  const { arch } = Deno.build;
  return ARCHITECTURES.includes(arch)
    ? ok("architecture", arch)
    : fail("architecture", arch, `use ${ARCHITECTURES.join(" or ")}`);
}

function checkPrivileges(config: Config): CheckItem {
  const needsUser = config.services.some(({ user }) => user !== null);
  const needed = needsUser ? [...NEEDED, ...NEEDED_FOR_USERS] : NEEDED;
  const mask = effectiveCapabilities();
  const missing = needed.filter((name) => (mask >> BigInt(CAPABILITIES[name]) & 1n) === 0n);
  return missing.length === 0
    ? ok("privileges", `user ${Deno.uid()} with ${needed.join(", ")}`)
    : fail(
      "privileges",
      `user ${Deno.uid()} without ${missing.join(", ")}`,
      "run as root: sudo holdfast ...",
    );
}

function checkTun(): CheckItem {
  const fix = "modprobe tun; in a container add the device /dev/net/tun and CAP_NET_ADMIN";
  return attempt("tun", fix, () => {
    const tun = openTun(`hfc${Deno.pid}`, { offload: true });
    closeAll(tun.fd);
    return tun.offload
      ? "/dev/net/tun makes interfaces with offload"
      : "/dev/net/tun makes interfaces, but without offload: throughput will be low";
  });
}

async function checkProgram(words: string[], debianPackage: string): Promise<CheckItem> {
  const [program] = words;
  const { code, output, complaint } = await runCommand(words);
  if (code === NOT_FOUND) {
    return fail(program, "it is not installed", `apt-get install ${debianPackage}`);
  }
  return ok(program, (output.trim() || complaint).split("\n")[0]);
}

async function checkStateDirectory(path: string): Promise<CheckItem> {
  const name = "state_dir";
  let directory = path;
  while (!await isDirectory(directory) && dirname(directory) !== directory) {
    directory = dirname(directory);
  }
  try {
    await Deno.remove(await Deno.makeTempFile({ dir: directory, prefix: ".holdfast-check-" }));
  } catch (error) {
    return fail(name, `${directory}: ${(error as Error).message}`, "name a directory we can write");
  }
  return ok(name, directory === path ? path : `${path} will be made`);
}

/** The disk that a service's log is to be kept on. */
async function checkDisk(service: string, stateDir: string): Promise<CheckItem> {
  const name = `${service}: log on disk`;
  let directory = stateDir;
  while (!await isDirectory(directory) && dirname(directory) !== directory) {
    directory = dirname(directory);
  }
  try {
    return { name, ...await tryDisk(directory) };
  } catch (error) {
    const found = `${directory}: ${(error as Error).message}`;
    return fail(name, found, "name a state_dir that we can write");
  }
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await Deno.stat(path)).isDirectory;
  } catch {
    return false;
  }
}

/** An interface as `ip -json address show` tells it. */
interface InterfaceInfo {
  ifname: string;
  flags: string[];
  mtu: number;
  addr_info: { family: string; local: string; prefixlen: number; scope: string }[];
}

async function listInterfaces(): Promise<InterfaceInfo[]> {
  const { code, output } = await runCommand(["ip", "-json", "address", "show"]);
  return code === 0 ? JSON.parse(output) : [];
}

async function checkService(
  service: ServiceConfig,
  config: Config,
  interfaces: InterfaceInfo[],
): Promise<CheckItem[]> {
  const { name, uplink, run, user, health } = service;
  const items = [checkCore(service, config)];
  const found = interfaces.find(({ ifname }) => ifname === service.interface);
  items.push(...checkInterface(service, found, interfaces));
  items.push(checkAddress(service, found, interfaces));
  if (found !== undefined) {
    items.push(await checkOffloads(service), checkForwarding(service));
    items.push(...checkReversePath(service));
  }
  items.push(checkNamespace(service));
  if (uplink) items.push(await checkUplink(service));
  const userItem = user === null ? null : await checkUser(name, user);
  if (userItem !== null) items.push(userItem);
  const knownUser = userItem?.result === "ok" ? user : null;
  if (run !== null) {
    items.push(await checkExecutable(`${name}: run`, run[0], knownUser));
  }
  if (health !== null) {
    items.push(await checkExecutable(`${name}: health`, health.command[0], knownUser));
  }
  return items;
}

function checkCore(service: ServiceConfig, { peers }: Config): CheckItem {
  const memoryMiB = Math.ceil(service.memoryBytes / (1 << 20));
  const fix = "raise memory or lower max_connections; without the module: deno task build";
  return attempt(`${service.name}: memory`, fix, () => {
    loadCore({
      memoryMiB,
      capacity: service.maxConnections,
      address: parseAddress(service.address).bytes,
      ports: service.ports,
      commit: service.commit,
      divergence: service.divergence,
      logLimit: service.keepsLogs ? service.log.limitBytes : service.logLimitBytes,
      refuseUnprotectable: service.unprotectable === "refuse",
      chained: peers.length > 1,
    });
    return `${memoryMiB} MiB hold ${service.maxConnections} connections`;
  });
}

function checkInterface(
  service: ServiceConfig,
  found: InterfaceInfo | undefined,
  interfaces: InterfaceInfo[],
): CheckItem[] {
  const name = `${service.name}: interface`;
  if (found === undefined) {
    const names = interfaces.map(({ ifname }) => ifname).join(", ") || "none";
    return [fail(name, `there is no ${service.interface}`, `use one of this host's: ${names}`)];
  }
  const { ifname, flags, mtu } = found;
  const isIpv6 = service.address.includes(":");
  if (!flags.includes("UP")) return [fail(name, `${ifname} is down`, `ip link set ${ifname} up`)];
  const items = [
    flags.includes("LOWER_UP")
      ? ok(name, `${ifname} is up, MTU ${mtu}`)
      : fail(name, `${ifname} is up but has no link`, "check the cable or the other end"),
  ];
  if (isIpv6 && mtu < IPV6_MTU_MIN) {
    const fix = `ip link set ${ifname} mtu ${IPV6_MTU_MIN}`;
    items.push(fail(`${service.name}: mtu`, `${mtu}, too small for IPv6`, fix));
  }
  const hasLinkLocal = found.addr_info.some(({ family, scope }) =>
    family === "inet6" && scope === "link"
  );
  if (isIpv6) {
    items.push(
      hasLinkLocal ? ok(`${service.name}: link-local`, `${ifname} has a link-local address`) : warn(
        `${service.name}: link-local`,
        `${ifname} has no link-local IPv6 address, so neighbours may not find it`,
        `sysctl -w net.ipv6.conf.${ifname}.disable_ipv6=0`,
      ),
    );
  }
  return items;
}

function checkAddress(
  service: ServiceConfig,
  found: InterfaceInfo | undefined,
  interfaces: InterfaceInfo[],
): CheckItem {
  const name = `${service.name}: address`;
  const { address } = service;
  for (const { ifname, addr_info } of interfaces) {
    const own = addr_info.find(({ local }) => parseAddress(local).text === address);
    if (own === undefined) continue;
    return fail(
      name,
      `${address} is an address of ${ifname}, the host's kernel would answer for it`,
      `ip address delete ${address}/${own.prefixlen} dev ${ifname}; Holdfast brings it itself`,
    );
  }
  const network = found?.addr_info.find(({ local, prefixlen }) =>
    isInNetwork(address, local, prefixlen)
  );
  return network === undefined
    ? warn(
      name,
      `${address} is in no network of ${service.interface}`,
      `take an address of that network, or let the routers send ${address} to this host`,
    )
    : ok(name, `${address} is in ${network.local}/${network.prefixlen} and nobody's here`);
}

/**
 * Whether an address is in a network.
 *
 * @param address The address.
 * @param network Any address of the network.
 * @param length Bits that the network's addresses have in common.
 */
export function isInNetwork(address: string, network: string, length: number): boolean {
  const a = parseAddress(address);
  const b = parseAddress(network);
  if (a.version !== b.version) return false;
  return a.bytes.every((octet, index) => {
    const bits = Math.min(8, Math.max(0, length - 8 * index));
    const mask = 0xff << (8 - bits) & 0xff;
    return (octet & mask) === (b.bytes[index] & mask);
  });
}

async function checkOffloads(service: ServiceConfig): Promise<CheckItem> {
  const name = `${service.name}: offloads`;
  const { interface: ifname } = service;
  const { code, output } = await runCommand(["ethtool", "-k", ifname]);
  if (code === NOT_FOUND) {
    return warn(name, "not checked, ethtool is not installed", "apt-get install ethtool");
  }
  if (/^large-receive-offload: on/m.test(output)) {
    return warn(
      name,
      `${ifname} merges received segments beyond recognition (LRO), which must not be forwarded`,
      `ethtool -K ${ifname} lro off`,
    );
  }
  return ok(name, `${ifname} has no LRO`);
}

/** Forwarding is switched on by `up`; here only whether it can be. */
function checkForwarding(service: ServiceConfig): CheckItem {
  const family = service.address.includes(":") ? "ipv6" : "ipv4";
  const setting = `net/${family}/conf/${service.interface}/forwarding`;
  const fix = "make /proc/sys/net writable, in a container by --sysctl or --privileged";
  return attempt(`${service.name}: forwarding`, fix, () => {
    const isOn = readSysctl(setting) === "1";
    // Opening tells a read-only /proc/sys; nothing is written.
    Deno.openSync(`/proc/sys/${setting}`, { write: true }).close();
    return isOn ? "on" : "off, will be switched on";
  });
}

function checkReversePath(service: ServiceConfig): CheckItem[] {
  if (service.address.includes(":")) return [];
  const { interface: ifname } = service;
  const values = ["all", ifname].map((each) =>
    Number(readSysctl(`net/ipv4/conf/${each}/rp_filter`))
  );
  const isStrict = Math.max(...values) === 1;
  const name = `${service.name}: rp_filter`;
  return [
    isStrict
      ? warn(
        name,
        `strict on ${ifname}: clients whose way back leads through another interface are dropped`,
        `only if there are such clients: sysctl -w net.ipv4.conf.${ifname}.rp_filter=2`,
      )
      : ok(name, `${Math.max(...values)} on ${ifname}`),
  ];
}

function checkNamespace(service: ServiceConfig): CheckItem {
  const name = `${service.name}: netns`;
  try {
    Deno.lstatSync(`/run/netns/${service.netns}`);
    return ok(name, `${service.netns} exists and will be used`);
  } catch {
    return ok(name, `${service.netns} will be made`);
  }
}

/** The uplink needs masquerading, by whichever tool this kernel obeys; see io/firewall.ts. */
async function checkUplink(service: ServiceConfig): Promise<CheckItem> {
  const name = `${service.name}: uplink`;
  const tools = [
    ["iptables-legacy", "-w", "5", "-t", "nat", "-S"],
    ["iptables", "-w", "5", "-t", "nat", "-S"],
    ["nft", "list", "tables"],
  ];
  for (const words of tools) {
    const { code } = await runCommand(words);
    if (code === 0) return ok(name, `${words[0]} can masquerade`);
  }
  return warn(
    name,
    "neither iptables nor nft works, the server will reach no other host",
    "apt-get install iptables, or set uplink = false",
  );
}

/** Whether the program is there and, as far as we may try, its user can start it. */
async function checkExecutable(
  name: string,
  program: string,
  user: string | null,
): Promise<CheckItem> {
  const places = program.includes("/")
    ? [program]
    : (Deno.env.get("PATH") ?? "").split(":").map((place) => `${place}/${program}`);
  for (const path of places) {
    if (!await isExecutable(path)) continue;
    if (user === null || Deno.uid() !== 0) return ok(name, path);
    const asUser = ["setpriv", `--reuid=${user}`, "--clear-groups", "--", "test", "-x", path];
    const { code } = await runCommand(asUser);
    if (code === 0) return ok(name, path);
    return fail(
      name,
      `${user} may not run ${path}`,
      "let that user read and enter its directories",
    );
  }
  return fail(name, `there is no program ${program}`, "install it, or name its full path");
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    const { isFile, mode } = await Deno.stat(path);
    return isFile && ((mode ?? 0) & 0o111) !== 0;
  } catch {
    return false;
  }
}

async function checkUser(service: string, user: string): Promise<CheckItem> {
  const name = `${service}: user`;
  const { code, output } = await runCommand(["getent", "passwd", user]);
  return code === 0
    ? ok(name, `${user} has number ${output.split(":")[2]}`)
    : fail(name, `there is no user ${user}`, `useradd --system ${user}`);
}

async function checkLink(
  name: string,
  link: { local: string; remote: string },
  around: { interfaces: InterfaceInfo[]; isRunning: boolean },
): Promise<CheckItem[]> {
  const local = parseHostPort(link.local);
  const remote = parseHostPort(link.remote);
  const own = around.interfaces.find(({ addr_info }) =>
    addr_info.some((each) => parseAddress(each.local).text === local.address.text)
  );
  if (own === undefined) {
    const fix = "give it to an interface, or correct local";
    return [fail(name, `${local.address.text} is no address of this host`, fix)];
  }
  const items: CheckItem[] = [];
  const route = await runCommand(["ip", "route", "get", remote.address.text]);
  items.push(
    route.code === 0
      ? ok(name, `${link.local} on ${own.ifname} -> ${link.remote}, MTU ${own.mtu}`)
      : fail(name, `no way to ${remote.address.text}: ${route.complaint}`, "add a route"),
  );
  if (around.isRunning) return [...items, ok(name, `${link.local} is used by the running node`)];
  items.push(
    attempt(name, "stop what uses the port, or take another one", () => {
      const fds: number[] = [];
      try {
        fds.push(bindUdp(local), listenTcp(local));
      } finally {
        closeAll(...fds);
      }
      return `port ${local.port} is free`;
    }),
  );
  return items;
}
