/**
 * keys.ts - `holdfast keys`: make a cluster's certificate authority and its nodes' certificates
 *
 * Theory of operation
 *
 *   keys init            ca.pem, ca.key         the authority; ca.key signs, and stays off the hosts
 *   keys issue NODE      NODE.pem, NODE.key     for one host, with ca.pem
 *
 * Nothing is ever overwritten unasked: `--renew` writes a new certificate for the key that is there.
 * A file is written beside its place, with mode 0600, and renamed: a reader sees the old or the new one,
 * and there is no moment at which others could read a key.
 */
import { dirname, join } from "node:path";
import { EXIT_DONE, print, UsageError } from "./output.ts";

/** Options of both commands. */
export interface KeysOptions {
  /** Directory of the files. */
  dir: string;
  /** How long the certificate is valid, days. */
  days: string;
  /** Renew the certificate of the key that is there. */
  renew: boolean;
}

/** Longest validity, days: a hundred years. */
const DAYS_MAX = 36_500;
const MODE_PUBLIC = 0o644;
const MODE_SECRET = 0o600;
const NODE = /^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/;

/** Makes the authority. */
export async function init(options: KeysOptions & { name: string }): Promise<number> {
  const { createAuthority } = await import("../certificates.ts");
  const days = daysOf(options.days);
  const places = { cert: join(options.dir, "ca.pem"), key: join(options.dir, "ca.key") };
  await Deno.mkdir(options.dir, { recursive: true });
  const key = await keyFor(places, options.renew);
  const made = await createAuthority(options.name, { days, key });
  await store(places, made, key === undefined);
  print(`${places.cert}  goes to every host\n${places.key}  signs; keep it off the hosts\n`);
  return EXIT_DONE;
}

/** Makes a node's certificate. */
export async function issue(node: string, options: KeysOptions): Promise<number> {
  if (!NODE.test(node)) {
    throw new UsageError(
      `Cannot issue a certificate for "${node}": allowed is a node's name, 1 to 32 letters, digits, ` +
        `"-", "_" and "."`,
    );
  }
  if (node === "ca") {
    throw new UsageError('Cannot call a node "ca": its files would be the authority\'s');
  }
  const { issueCertificate } = await import("../certificates.ts");
  const days = daysOf(options.days);
  const at = (name: string) => join(options.dir, name);
  const authority = {
    cert: await readAuthority(at("ca.pem")),
    key: await readAuthority(at("ca.key")),
  };
  const places = { cert: at(`${node}.pem`), key: at(`${node}.key`) };
  const key = await keyFor(places, options.renew);
  const made = await issueCertificate(node, authority, { days, key });
  await store(places, made, key === undefined);
  print(`${places.cert}\n${places.key}  for host ${node} alone\n`);
  return EXIT_DONE;
}

interface Places {
  cert: string;
  key: string;
}

function daysOf(text: string): number {
  const days = Number(text);
  if (/^\d+$/.test(text) && days >= 1 && days <= DAYS_MAX) return days;
  throw new UsageError(`Cannot use --days ${text}: allowed is a number from 1 to ${DAYS_MAX}`);
}

/** The key to go on with; undefined for a new one. */
async function keyFor(places: Places, renew: boolean): Promise<string | undefined> {
  if (renew) {
    try {
      return await Deno.readTextFile(places.key);
    } catch (error) {
      throw new Error(
        `Cannot renew ${places.cert} with the key ${places.key}: ${(error as Error).message}`,
      );
    }
  }
  for (const path of [places.cert, places.key]) {
    if (!await exists(path)) continue;
    throw new Error(
      `Cannot make ${path}: it is there already; --renew makes a new certificate for the same key, ` +
        `for a new key remove both files`,
    );
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function readAuthority(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    const advice = error instanceof Deno.errors.NotFound
      ? 'make an authority first with "holdfast keys init", or say --dir'
      : (error as Error).message;
    throw new Error(`Cannot sign with ${path}: ${advice}`);
  }
}

async function store(
  places: Places,
  made: { cert: string; key: string },
  isNewKey: boolean,
): Promise<void> {
  if (isNewKey) await writeFile(places.key, made.key, MODE_SECRET);
  await writeFile(places.cert, made.cert, MODE_PUBLIC);
}

async function writeFile(path: string, text: string, mode: number): Promise<void> {
  // Made with mode 0600, whatever the umask.
  const temporary = await Deno.makeTempFile({ dir: dirname(path), prefix: ".holdfast-" });
  try {
    await Deno.writeTextFile(temporary, text);
    await Deno.chmod(temporary, mode);
    await Deno.rename(temporary, path);
  } catch (error) {
    await Deno.remove(temporary);
    throw new Error(`Cannot write ${path}: ${(error as Error).message}`);
  }
}
