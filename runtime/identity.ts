/**
 * identity.ts - who this node is, and whether a peer is who it should be
 *
 * Theory of operation
 * The three files of `cluster.tls` are read together and checked together, so that a wrong one is found
 * when the daemon starts or `holdfast check` runs, not at the first takeover. A peer's certificate has been
 * checked by the TLS library (authority, dates, purpose) when {@linkcode nodeOf} reads whose it is.
 *
 * Sources: RFC 5280; node:crypto X509Certificate.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";

/** The name that all nodes' certificates share, so that TLS libraries have one to check. */
export const SERVER_NAME = "holdfast.internal";
/** Before a node's name in its certificate. */
export const NODE_URI = "urn:holdfast:node:";
/** A certificate that ends sooner is warned of, days. */
export const EXPIRY_DAYS_WARNED = 30;

const DAY_MS = 86_400_000;

/** Names of the files of `cluster.tls`. */
export interface IdentityFiles {
  /** Certificates of authorities. */
  ca: string;
  /** This node's certificate. */
  cert: string;
  /** Its private key. */
  key: string;
}

/** What the files hold, PEM, checked. */
export interface Identity {
  /** Certificates of authorities. */
  ca: string;
  /** This node's certificate. */
  cert: string;
  /** Its private key. */
  key: string;
  /** When the certificate ends. */
  notAfter: Date;
  /** What an operator should know: it ends soon, others may read the key. */
  warnings: string[];
}

/**
 * Reads and checks a node's certificate.
 *
 * @param node The node's name, as its configuration says.
 * @throws {Error} Naming the file, what is wrong with it, and what to do.
 */
export async function loadIdentity(
  node: string,
  files: IdentityFiles,
  now: Date = new Date(),
): Promise<Identity> {
  const [ca, cert, key] = await Promise.all([
    read(files.ca, "certificate authority"),
    read(files.cert, "certificate"),
    read(files.key, "private key"),
  ]);
  const authorities = certificatesIn(ca, files.ca);
  const [own] = certificatesIn(cert, files.cert);
  const name = nodeOf(own.subjectAltName);
  const renewal = `issue another: holdfast keys issue ${node} --renew`;
  if (name !== node) {
    throw new Error(
      `Cannot use ${files.cert}: it is for ${
        name === null ? "no node of a cluster" : `node "${name}"`
      }, this node is "${node}"; ${renewal}`,
    );
  }
  const isSigned = authorities.some((authority) =>
    own.checkIssued(authority) && own.verify(authority.publicKey)
  );
  if (!isSigned) {
    throw new Error(`Cannot use ${files.cert}: no authority in ${files.ca} has signed it`);
  }
  let isPair: boolean;
  try {
    isPair = own.checkPrivateKey(createPrivateKey(key));
  } catch (error) {
    throw new Error(
      `Cannot use ${files.key}: it holds no private key (${(error as Error).message})`,
    );
  }
  if (!isPair) throw new Error(`Cannot use ${files.key}: it is not the key of ${files.cert}`);
  const notBefore = new Date(own.validFrom);
  const notAfter = new Date(own.validTo);
  if (now > notAfter) {
    throw new Error(`Cannot use ${files.cert}: it ended at ${notAfter.toISOString()}; ${renewal}`);
  }
  if (now < notBefore) {
    throw new Error(
      `Cannot use ${files.cert}: it begins at ${notBefore.toISOString()}; is this host's clock right?`,
    );
  }
  const warnings: string[] = [];
  const days = Math.floor((notAfter.getTime() - now.getTime()) / DAY_MS);
  if (days < EXPIRY_DAYS_WARNED) {
    warnings.push(
      `${files.cert} ends in ${days} days: a daemon started later cannot join; ${renewal}`,
    );
  }
  const { mode } = await Deno.stat(files.key);
  if (mode !== null && (mode & 0o077) !== 0) {
    const octal = (mode & 0o777).toString(8);
    warnings.push(`${files.key} has mode ${octal}, others may read it: chmod 600 ${files.key}`);
  }
  return { ca, cert, key, notAfter, warnings };
}

/**
 * Whose certificate this is.
 *
 * @param subjectAltName As node:crypto and node:tls print it.
 * @returns The node's name; null when it is no certificate of a node. Only the exact form that
 * certificates.ts makes is accepted, so nothing can hide in another name.
 */
export function nodeOf(subjectAltName: string | undefined): string | null {
  const prefix = `DNS:${SERVER_NAME}, URI:${NODE_URI}`;
  if (subjectAltName === undefined || !subjectAltName.startsWith(prefix)) return null;
  const name = subjectAltName.slice(prefix.length);
  return /^[A-Za-z0-9._-]+$/.test(name) ? name : null;
}

async function read(file: string, what: string): Promise<string> {
  try {
    return await Deno.readTextFile(file);
  } catch (error) {
    const why = error instanceof Deno.errors.NotFound
      ? 'there is no such file; "holdfast keys --help" says how to make it'
      : (error as Error).message;
    throw new Error(`Cannot read the ${what} ${file}: ${why}`);
  }
}

function certificatesIn(pem: string, file: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g);
  if (blocks === null) throw new Error(`Cannot use ${file}: it holds no certificate in PEM`);
  try {
    return blocks.map((block) => new X509Certificate(block));
  } catch (error) {
    throw new Error(`Cannot use ${file}: it holds no certificate (${(error as Error).message})`);
  }
}
