/**
 * resolver.ts - name servers that a service namespace can reach
 *
 * Theory of operation
 * A host whose /etc/resolv.conf names only itself (systemd-resolved at 127.0.0.53) has a name server that
 * no other namespace can reach. There the list that the resolver itself uses is put into
 * /etc/netns/NAME/resolv.conf, which `ip netns exec NAME` shows as /etc/resolv.conf. Otherwise, and
 * where a person has put a file there, nothing is done.
 *
 * Sources: ip-netns(8), resolv.conf(5), systemd-resolved.service(8).
 */

const HOST_FILE = "/etc/resolv.conf";
const UPSTREAM_FILE = "/run/systemd/resolve/resolv.conf";
/** First line of a file that we made. */
const MARK = "# made by holdfast\n";

/** Gives a namespace name servers it can reach, where the host's own are out of its reach. */
export async function setUpResolver(netns: string): Promise<void> {
  const host = await readIfPresent(HOST_FILE);
  const upstream = await readIfPresent(UPSTREAM_FILE);
  if (host === null || !isOnlyLoopback(host)) return;
  if (upstream === null || isOnlyLoopback(upstream)) return;
  const present = await readIfPresent(fileOf(netns));
  if (present !== null && !present.startsWith(MARK)) return;
  await Deno.mkdir(directoryOf(netns), { recursive: true });
  await Deno.writeTextFile(fileOf(netns), MARK + upstream);
}

/** Removes a file that {@linkcode setUpResolver} has made. */
export async function removeResolver(netns: string): Promise<void> {
  if (!(await readIfPresent(fileOf(netns)))?.startsWith(MARK)) return;
  await Deno.remove(fileOf(netns));
  // The directory goes too, unless a person keeps other files in it.
  await Deno.remove(directoryOf(netns)).catch(() => {});
}

/** Whether every name server in a resolv.conf is the host itself; also when there is none. */
export function isOnlyLoopback(text: string): boolean {
  const servers = [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map(([, server]) => server);
  return servers.every((server) => server.startsWith("127.") || server === "::1");
}

/** Where ip(8) looks for files of a namespace. */
function directoryOf(netns: string): string {
  return `/etc/netns/${netns}`;
}

/** The resolv.conf of a namespace. */
function fileOf(netns: string): string {
  return `${directoryOf(netns)}/resolv.conf`;
}

/** The text of a file; null when there is no such file. */
async function readIfPresent(path: string): Promise<string | null> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}
