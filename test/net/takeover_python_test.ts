/**
 * takeover_python_test.ts - a download from python3 -m http.server through the death of its host
 *
 *   client ---- switch ---- host a: python3 -m http.server
 *                    \----- host b: python3 -m http.server
 *
 * Claim: wget reads a 1 GiB file; at a random moment between its first SYN and its last FIN the host
 * that serves it loses power. wget ends with status 0 without trying again, the SHA-256 is the
 * file's, and the capture at the client holds no RST and one SYN. Each replica in turn is the one
 * that dies. Fifty rounds in full.
 */

import { downloadThroughCrashes } from "./download.ts";
import { netTest } from "./conditions.ts";

netTest("wget reads 1 GiB from http.server through the death of its host", [
  "python3",
  "wget",
], (context) =>
  downloadThroughCrashes(context, {
    family: 4,
    rounds: 50,
    server: (_host, directory) =>
      Promise.resolve(["python3", "-m", "http.server", "80", "--directory", `${directory}/files`]),
    client: (url) => ["wget", "--quiet", "--tries=1", "--timeout=60", "--output-document=-", url],
  }));
