/**
 * certificates.ts - the cluster's certificate authority, and certificates of nodes
 *
 * Theory of operation
 * A cluster has one authority of its own, and whoever it certifies is a member: nothing else is trusted,
 * no name service is asked. A node's certificate says
 *
 *   subject alternative names   DNS holdfast.internal          the same for all: what TLS libraries check
 *                               URI urn:holdfast:node:NAME     which node it is: what we check
 *   extended key usage          TLS server and client: both sides of a control connection prove themselves
 *
 * Keys are ECDSA P-256, which every TLS 1.3 library takes. Files are PEM: certificates mode 0644, keys
 * PKCS #8, mode 0600.
 *
 * Why @peculiar/x509: it is kept up, makes certificates with WebCrypto alone (no program to call, no
 * arithmetic of its own) and runs under Deno. It needs the reflect-metadata polyfill loaded before it.
 * Reading and checking at run time is done by node:crypto, which the daemon has loaded anyway.
 *
 * Sources: RFC 5280, RFC 8446 section 4.4.2; ICANN's reservation of ".internal" for private use.
 */
import "reflect-metadata";
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { NODE_URI, SERVER_NAME } from "./identity.ts";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const DAY_MS = 86_400_000;
/** Clocks of hosts differ: a new certificate is valid a little before it is made. */
const EARLY_MS = 3_600_000;

/** A certificate and its private key, PEM. */
export interface Credentials {
  /** The certificate. */
  cert: string;
  /** Its key, PKCS #8. */
  key: string;
}

/** How a certificate is made. */
export interface CertificateOptions {
  /** How long it is valid, days. */
  days: number;
  /** A key to go on with, PEM; a new one is made without it. */
  key?: string;
}

/**
 * Makes a certificate authority.
 *
 * @param name What people call the cluster.
 */
export async function createAuthority(
  name: string,
  options: CertificateOptions,
): Promise<Credentials> {
  const keys = await keyPair(options.key);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: [{ CN: [name] }],
    ...validity(options.days),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { cert: certificate.toString("pem") + "\n", key: await pemOf(keys.privateKey) };
}

/**
 * Makes a node's certificate.
 *
 * @param node The node's name.
 * @param authority Who signs it.
 * @throws {Error} When the authority's files are no certificate and key of one pair, or it ends before.
 */
export async function issueCertificate(
  node: string,
  authority: Credentials,
  options: CertificateOptions,
): Promise<Credentials> {
  const issuer = new X509Certificate(authority.cert);
  const issuerKeys = await keyPair(authority.key);
  const issuerPublic = await crypto.subtle.exportKey("spki", issuerKeys.publicKey);
  if (new Uint8Array(issuerPublic).toHex() !== new Uint8Array(issuer.publicKey.rawData).toHex()) {
    throw new Error("Cannot sign: the authority's certificate and key are not of one pair");
  }
  const { notBefore, notAfter } = validity(options.days);
  if (notAfter > issuer.notAfter) {
    throw new Error(
      `Cannot issue a certificate until ${notAfter.toISOString()}: the authority's own ends at ` +
        `${issuer.notAfter.toISOString()}; renew it first, or ask for fewer days`,
    );
  }
  const keys = await keyPair(options.key);
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: [{ CN: [node] }],
    issuer: issuer.subject,
    notBefore,
    notAfter,
    signingAlgorithm: ALGORITHM,
    publicKey: keys.publicKey,
    signingKey: issuerKeys.privateKey,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
      new SubjectAlternativeNameExtension([
        { type: "dns", value: SERVER_NAME },
        { type: "url", value: NODE_URI + node },
      ]),
    ],
  });
  return { cert: certificate.toString("pem") + "\n", key: await pemOf(keys.privateKey) };
}

function validity(days: number): { notBefore: Date; notAfter: Date } {
  const nowMs = Date.now();
  return {
    notBefore: new Date(nowMs - EARLY_MS),
    notAfter: new Date(nowMs + days * DAY_MS),
  };
}

/** 127 random bits: positive, and never the same twice. */
function serialNumber(): string {
  const octets = crypto.getRandomValues(new Uint8Array(16));
  octets[0] = octets[0] & 0x7f | 0x40;
  return octets.toHex();
}

/** A new pair, or the one of a private key. */
async function keyPair(pem: string | undefined): Promise<CryptoKeyPair> {
  if (pem === undefined) {
    return await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]) as CryptoKeyPair;
  }
  let octets: ArrayBuffer;
  try {
    octets = PemConverter.decodeFirst(pem);
    const privateKey = await crypto.subtle.importKey("pkcs8", octets, ALGORITHM, true, ["sign"]);
    const { d: _secret, key_ops: _uses, ...jwk } = await crypto.subtle.exportKey("jwk", privateKey);
    const publicKey = await crypto.subtle.importKey("jwk", jwk, ALGORITHM, true, ["verify"]);
    return { privateKey, publicKey };
  } catch (error) {
    throw new Error(
      `Cannot use a key: it is not an ECDSA P-256 key in PKCS #8 (${(error as Error).message})`,
    );
  }
}

async function pemOf(privateKey: CryptoKey): Promise<string> {
  const octets = await crypto.subtle.exportKey("pkcs8", privateKey);
  return PemConverter.encode(octets, PemConverter.PrivateKeyTag) + "\n";
}
