/**
 * daemons.ts - CTTM's experiment: servers out of the box, killed in the midst of a transfer
 *
 * Theory of operation
 * One host in log mode. Server and client are what a distribution installs and know nothing of us. When the
 * server has said FIRST_OCTETS, all its processes are killed at a random moment; Holdfast starts it again
 * and plays it what was logged. Survived means: the client ended well, and what it wrote has the hash that
 * it must have. A server that cannot survive is listed too, with what made it so; that one does not
 * survive which should is a failure of the run, and the other way round.
 *
 * What is not installed is skipped by name; on Debian all come with
 *
 *   apt-get install --no-install-recommends nginx-light lighttpd busybox python3 redis-server redis-tools \
 *     vsftpd openssh-server curl wget
 */

import { createHash } from "node:crypto";
import { makeContent } from "../test/net/content.ts";
import { nginx } from "../test/net/nginx.ts";
import type { Experiment } from "./experiment.ts";
import { REDIS, redisSeries } from "./failures.ts";
import type { Report } from "./report.ts";
import { type ServerPlace, type ServerPlan, type Site, withSite } from "./site.ts";
import { sleepRandom } from "./takeover.ts";

/** Heartbeats that may be missed: nothing but the server dies here. */
const DETECT_CALM = 50;
/** What is transferred, and at most so many octets a second, so that the death meets it. */
const CONTENT_OCTETS = 128 << 20;
const RATE = "100M";
/** A server has begun to answer when it has said so many octets. */
const FIRST_OCTETS = 1000;
const INCREMENTS = 1000;
const CLIENT_TIMEOUT_MS = 60_000;
const POLL_MS = 5;
/** The only port that FTP's transfers may use. */
const PASSIVE_PORT = 10_090;

/** A server, and a client that asks it for the content. */
interface Daemon {
  /** Both by name. */
  name: string;
  /** Programs. */
  needs: readonly string[];
  /** The server. */
  server: ServerPlan;
  /** The client, which writes what it got to standard output. */
  client: (place: { address: string; directory: string }) => string[];
  /** Why it cannot survive; what has none must. */
  why?: string;
  /** What the client must have written, in place of the content. */
  expected?: string;
}

/** A server of files over HTTP at port 80. */
function httpServer(
  command: (place: ServerPlace & { files: string }) => Promise<string[]> | string[],
) {
  return {
    ports: [80],
    command: (place: ServerPlace) => command({ ...place, files: `${place.directory}/files` }),
  };
}

/** A server that needs a configuration file. */
async function configured(
  { directory }: ServerPlace,
  text: string,
  command: (path: string) => string[],
): Promise<string[]> {
  const path = `${directory}/server.conf`;
  await Deno.writeTextFile(path, text);
  return command(path);
}

const curl: Daemon["client"] = (
  { address },
) => ["curl", "--silent", "--show-error", "--limit-rate", RATE, `http://${address}/content`];
const wget: Daemon["client"] = ({ address }) => [
  ...["wget", "--quiet", "--tries=1", `--limit-rate=${RATE.toLowerCase()}`, "--output-document=-"],
  `http://${address}/content`,
];
const answers = Array.from({ length: INCREMENTS }, (_, i) => `${i + 1}\n`).join("");
const series: Daemon["client"] = ({ address }) => redisSeries(address, INCREMENTS);

const LIST: readonly Daemon[] = [
  {
    name: "nginx, curl",
    needs: ["nginx", "curl"],
    server: httpServer(({ host, directory }) => nginx(host, directory)),
    client: curl,
  },
  {
    name: "lighttpd, curl",
    needs: ["lighttpd", "curl"],
    server: httpServer(({ files, ...place }) =>
      configured(
        place,
        `server.document-root = "${files}"\nserver.port = 80\n`,
        (path) => ["lighttpd", "-D", "-f", path],
      )
    ),
    client: curl,
  },
  {
    name: "busybox httpd, wget",
    needs: ["busybox", "wget"],
    server: httpServer(({ files }) => ["busybox", "httpd", "-f", "-p", "0.0.0.0:80", "-h", files]),
    client: wget,
  },
  {
    name: "python3 http.server, wget",
    needs: ["python3", "wget"],
    server: httpServer(({ files }) => ["python3", "-m", "http.server", "80", "--directory", files]),
    client: wget,
  },
  {
    name: "redis-server, redis-cli",
    needs: ["redis-server", "redis-cli"],
    server: REDIS,
    client: series,
    expected: answers,
  },
  {
    name: "redis-server with its own file, redis-cli",
    needs: ["redis-server", "redis-cli"],
    server: {
      ...REDIS,
      command: async (place) => [...await REDIS.command(place), "--appendonly", "yes"],
    },
    client: series,
    expected: answers,
    why: "it reads its own file again and is then played the same requests: each counts twice",
  },
  {
    name: "vsftpd, curl",
    needs: ["vsftpd", "curl"],
    server: {
      ports: [21, PASSIVE_PORT],
      listeners: 1,
      command: (place) =>
        configured(
          place,
          `listen=YES\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\n` +
            `anon_root=${place.directory}/files\nsecure_chroot_dir=${place.directory}\n` +
            `pasv_min_port=${PASSIVE_PORT}\npasv_max_port=${PASSIVE_PORT}\nseccomp_sandbox=NO\n`,
          (path) => ["vsftpd", path],
        ),
    },
    client: (
      { address },
    ) => ["curl", "--silent", "--show-error", "--limit-rate", RATE, `ftp://${address}/content`],
  },
  {
    name: "sshd, ssh",
    needs: ["sshd", "ssh", "ssh-keygen"],
    server: {
      ports: [22],
      command: async (place) => {
        const key = `${place.directory}/key`;
        await new Deno.Command("ssh-keygen", { args: ["-q", "-t", "ed25519", "-N", "", "-f", key] })
          .output();
        await Deno.mkdir("/run/sshd", { recursive: true });
        return await configured(
          place,
          `HostKey ${key}\nAuthorizedKeysFile ${key}.pub\nStrictModes no\nPermitRootLogin yes\n` +
            `UsePAM no\nPidFile none\n`,
          (path) => ["/usr/sbin/sshd", "-D", "-e", "-f", path],
        );
      },
    },
    client: ({ address, directory }) => [
      ...["ssh", "-i", `${directory}/key`, "-o", "StrictHostKeyChecking=no"],
      ...["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", `root@${address}`],
      `cat ${directory}/files/content`,
    ],
    why: "each start has fresh keys for a session, so it reads and writes other octets",
  },
];

/** Servers out of the box. */
export const DAEMONS: Experiment = {
  name: "daemons",
  isTrial: true,
  cases: (quick) =>
    LIST.filter((_, index) => !quick || index === 0).map((daemon) => ({
      what: daemon.name,
      needs: daemon.needs,
      act: (report) => outlive(report, daemon),
    })),
};

async function outlive(report: Report, daemon: Daemon): Promise<void> {
  const { name, server, client, why, expected } = daemon;
  let content = "";
  const withContent: ServerPlan = {
    ...server,
    command: async (place) => {
      await Deno.mkdir(`${place.directory}/files`, { recursive: true });
      content = makeContent(`${place.directory}/files/content`, CONTENT_OCTETS).sha256;
      return await server.command(place);
    },
  };
  await withSite("log", { detect: DETECT_CALM, server: withContent }, async (site) => {
    const { topology } = site;
    const place = { address: topology.serviceAddress, directory: topology.directory };
    const run = hashOutput(site, client(place));
    const tooSoon = run.then(({ code, complaint }) => {
      throw new Error(`The client ended with ${code} before the death: ${complaint}`);
    });
    await Promise.race([untilSaid(site), tooSoon]);
    await sleepRandom();
    site.signalServer("a", "SIGKILL");
    const { code, sha256, complaint } = await run;
    const wanted = expected === undefined
      ? content
      : createHash("sha256").update(expected).digest("hex");
    const hasSurvived = code === 0 && sha256 === wanted;
    const { app, recovery, counters } = await site.service("a");
    if (hasSurvived && !app.restarts) throw new Error("The transfer had ended before the death");
    report.add("daemons", { series: `${name}: survived`, unit: "", value: hasSurvived ? 1 : 0 });
    const last = recovery?.last;
    if (hasSurvived && last) {
      report.add("daemons", { series: `${name}: brought back in`, unit: "ms", value: last.tookMs });
    }
    const seen = `exit status ${code}, ${counters.diverged} diverged; ${complaint || "no word"}`;
    if (why !== undefined) report.remark(`${name}: cannot survive, ${why} (seen: ${seen})`);
    if (hasSurvived !== (why === undefined)) {
      throw new Error(`${hasSurvived ? "it has survived" : "it has not survived"}: ${seen}`);
    }
  });
}

/** Waits until the server has begun to answer. */
async function untilSaid(site: Site): Promise<void> {
  const deadlineMs = performance.now() + CLIENT_TIMEOUT_MS;
  while (performance.now() < deadlineMs) {
    const connections = await site.connections("a");
    if (connections.reduce((sum, { bytesOut }) => sum + bytesOut, 0) >= FIRST_OCTETS) return;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  throw new Error(`The server has said nothing within ${CLIENT_TIMEOUT_MS} ms`);
}

/** Runs a client to its end, or for CLIENT_TIMEOUT_MS. */
async function hashOutput(
  site: Site,
  command: string[],
): Promise<{ code: number; sha256: string; complaint: string }> {
  const child = site.topology.client.spawn(command, { stdout: "piped", stderr: "piped" });
  const timer = setTimeout(() => child.kill("SIGKILL"), CLIENT_TIMEOUT_MS);
  const complaint = new Response(child.stderr).text();
  const hash = createHash("sha256");
  for await (const piece of child.stdout) hash.update(piece);
  const { code } = await child.status;
  clearTimeout(timer);
  const last = (await complaint).trim().split("\n").at(-1) ?? "";
  return { code, sha256: hash.digest("hex"), complaint: last };
}
