/**
 * log_death_test.ts - log mode: whichever server dies at whichever moment, its clients' hashes are right
 *
 *   curl, once or 100 at a time ---- switch ---- host a: daemon, server     is killed, and started again
 *                                         \----- host b: daemon, log        takes over when a loses power
 *
 * Claims, for each of three servers, with one host, with two, and with two of which b is hot (its server follows
 * while it stands by, and is handed what a's leaves), and for one client and 100 at once:
 *   nginx          files are downloaded
 *   http.server    the same; HTTP/1.0, a thread for each connection
 *   hash server    files are uploaded, and answered with their SHA-256
 *   SIGKILL of the server, alone or with its whole process group, at a random moment of the transfers; with
 *   two hosts every fifth time the primary's host loses its power instead
 *                  every hash is right, no RST, one SYN for each connection, none is ended early
 *
 * Each of the eighteen is promised 50 times.
 */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { fillContent } from "../../runtime/lab/content.ts";
import { traceTcp } from "./capture.ts";
import { netTest, type NetTestContext, repetitions, sleep, until } from "./conditions.ts";
import { type HostName, type Site, type SiteOptions, withSite } from "./harness.ts";
import { nginx } from "./nginx.ts";
import { assertUnbroken } from "./verdict.ts";

/** Every so often it is the host that dies, where there is another one. */
const CRASH_EVERY = 5;
const TIMEOUT_MS = 60_000;

/** Clients at a time, and what each of them moves: for about a second, slow enough to be met in its midst. */
interface Load {
  clients: number;
  octets: number;
  octetsPerSecond: number;
}

const LOADS: Load[] = [
  { clients: 1, octets: 32 << 20, octetsPerSecond: 32 << 20 },
  { clients: 100, octets: 1 << 18, octetsPerSecond: 1 << 18 },
];

/** A file of the lab's content. */
interface Content {
  path: string;
  sha256: string;
  octets: number;
}

async function makeFile(path: string, octets: number): Promise<Content> {
  const content = new Uint8Array(octets);
  fillContent(content, 0, octets);
  await Deno.writeFile(path, content);
  return { path, sha256: createHash("sha256").update(content).digest("hex"), octets };
}

/**
 * `python3 -m http.server`, but for its backlog of 5: of 100 curls that connect to that at once, 17 to 27 get no
 * answer within a minute, without us.
 */
const HTTP_SERVER = `
import functools, http.server, sys
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.test(
    HandlerClass=functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1]),
    ServerClass=http.server.ThreadingHTTPServer,
    port=80,
)
`;

/** A server, and what curl does with it. */
interface Subject {
  name: string;
  programs: string[];
  /** Command of a host's server, whose files are in `directory`/files. */
  command: (host: HostName, directory: string) => Promise<string[]> | string[];
  /** curl's words for one transfer of `file`. */
  transfer: (file: string, url: (path: string) => string) => string[];
  /** What curl must have written. */
  answer: (content: Content) => { sha256: string; octets: number };
}

const SUBJECTS: Subject[] = [{
  name: "nginx",
  programs: ["nginx", "curl"],
  command: nginx,
  transfer: (file, url) => [url(`/${file}`)],
  answer: ({ sha256, octets }) => ({ sha256, octets }),
}, {
  name: "http.server",
  programs: ["python3", "curl"],
  command: (_, directory) => ["python3", "-u", "-c", HTTP_SERVER, `${directory}/files`],
  transfer: (file, url) => [url(`/${file}`)],
  answer: ({ sha256, octets }) => ({ sha256, octets }),
}, {
  name: "a server that hashes uploads",
  programs: ["curl"],
  command: () => {
    const script = new URL("../../runtime/lab/servers.ts", import.meta.url).pathname;
    return [Deno.execPath(), "run", "-A", script, "upload", "--address", "::", "--port", "80"];
  },
  transfer: (file, url) => ["--upload-file", file, url("/")],
  answer: ({ sha256, octets }) => {
    const said = new TextEncoder().encode(`${sha256} ${octets}\n`);
    return { sha256: createHash("sha256").update(said).digest("hex"), octets: said.length };
  },
}];

/** Transfers under way. */
interface Transfers {
  /** True when the last has ended. */
  hasEnded: () => boolean;
  /** Waits until all have ended, and looks at what each has written. */
  mustBeRight: () => Promise<void>;
}

/** Starts the clients of a load. */
function start(
  site: Site,
  { subject, load, content, directory }: {
    subject: Subject;
    load: Load;
    content: Content;
    directory: string;
  },
): Transfers {
  const file = content.path.slice(content.path.lastIndexOf("/") + 1);
  const outputs = Array.from({ length: load.clients }, (_, i) => `${directory}/output-${i}`);
  const args = [
    ...["--silent", "--show-error", "--fail", "--max-time", `${TIMEOUT_MS / 1000}`],
    ...["--limit-rate", `${load.octetsPerSecond}`],
    ...["--parallel", "--parallel-immediate", "--parallel-max", `${load.clients}`],
    ...outputs.flatMap((output) => [
      ...subject.transfer(file, (path) => site.url(path)),
      ...["--output", output],
    ]),
  ];
  const client = site.startInClient("curl", args, { directory: `${directory}/files` });
  return {
    hasEnded: () => client.hasEnded,
    mustBeRight: async () => {
      await client.mustSucceed(TIMEOUT_MS);
      const wanted = subject.answer(content);
      for (const output of outputs) {
        const octets = await Deno.readFile(output);
        const sha256 = createHash("sha256").update(octets).digest("hex");
        assert.deepEqual({ sha256, octets: octets.length }, wanted, output);
        await Deno.remove(output);
      }
    },
  };
}

/** What dies; returns when it did, and what has to come back. */
async function strike(
  { random }: NetTestContext,
  site: Site,
  { primary, isHost }: { primary: HostName; isHost: boolean },
): Promise<{ what: string; faultMs: number }> {
  if (isHost) return { what: "power cut", faultMs: await site.crash(primary) };
  const wholeGroup = random.next() < 0.5;
  const faultMs = await site.signalServer(primary, "SIGKILL", { wholeGroup });
  return { what: `SIGKILL${wholeGroup ? " of the group" : ""}`, faultMs };
}

/** For this share of the time that a transfer takes by its rate it is surely under way: a rate holds on average. */
const SURE_SHARE = 0.8;

/** One subject and load, as often as this run is to. */
async function strikeOften(
  context: NetTestContext,
  site: Site,
  { subject, load, hosts }: { subject: Subject; load: Load; hosts: 1 | 2 },
): Promise<void> {
  const { directory, random } = context;
  const content = await makeFile(`${directory}/files/content-${load.clients}`, load.octets);
  const lastsMs = 1000 * load.octets / load.octetsPerSecond;
  const rounds = repetitions(50);
  let met = 0;
  for (let round = 0; round < rounds; round++) {
    const primary = hosts === 1 ? "a" : await site.waitCovered();
    await site.waitPrimary(primary);
    const capture = await site.startCapture();
    const transfers = start(site, { subject, load, content, directory });
    const momentMs = random.between(0, SURE_SHARE * lastsMs);
    await sleep(momentMs);
    if (!transfers.hasEnded()) met++;
    const isHost = hosts === 2 && (round + 1) % CRASH_EVERY === 0;
    const { what, faultMs } = await strike(context, site, { primary, isHost });
    await transfers.mustBeRight();
    const tookMs = Math.round(Date.now() - faultMs);
    // The next server is played what is over for clients as well: what it makes them hear counts too.
    await until(async () => (await site.service(await site.primary())).recovery?.state === "live", {
      what: "connections to be live",
      timeoutMs: TIMEOUT_MS,
    });
    // What a client has to say of this round still, it must not say in the next one's capture.
    await site.waitClientsGone();
    console.log(
      `${load.clients} at a time, round ${round + 1} of ${rounds}: ${what} after ` +
        `${momentMs.toFixed(0)} ms, done ${tookMs} ms later`,
    );
    const dropped = await capture.stop();
    const trace = traceTcp(capture.path, site.address);
    assertUnbroken(trace, { connections: load.clients, faultMs, dropped });
    await Deno.remove(capture.path);
    if (isHost) await site.revive(primary);
  }
  assert.ok(met >= rounds * 0.8, `only ${met} of ${rounds} faults met clients`);
}

/** The hosts of a site, by what a test is called. */
const SITES: Record<string, Partial<SiteOptions>> = {
  "1 host": { alone: true, hosts: ["a"] },
  "2 hosts": {},
  "2 hosts, one of them hot": { hostService: { b: { mode: "hot", log: {} } } },
};

for (const subject of SUBJECTS) {
  for (const [which, options] of Object.entries(SITES)) {
    const name = `clients of ${subject.name} do not notice its death (${which})`;
    netTest(name, subject.programs, async (context) => {
      const { directory } = context;
      await Deno.mkdir(`${directory}/files`);
      const run = {
        a: await subject.command("a", directory),
        b: await subject.command("b", directory),
      };
      const hosts = options.alone === true ? 1 : 2;
      await withSite(context, { ...options, run, service: { mode: "log" } }, async (site) => {
        for (const load of LOADS) await strikeOften(context, site, { subject, load, hosts });
      });
    });
  }
}
