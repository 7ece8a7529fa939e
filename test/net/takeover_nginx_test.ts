/**
 * takeover_nginx_test.ts - a download from nginx through the death of its host
 *
 *   client ---- switch ---- host a: nginx
 *                    \----- host b: nginx        the service address moves between a and b
 *
 * Claim: curl reads a 1 GiB file from nginx; at a random moment between its first SYN and its last
 * FIN the host that serves it loses power. curl ends with status 0, the SHA-256 is the file's, and
 * the capture at the client holds no RST and one SYN. Each replica in turn is the one that dies, as
 * the survivor of one round is the primary of the next. Fifty rounds in full.
 */

import { downloadThroughCrashes } from "./download.ts";
import { netTest } from "./conditions.ts";
import { nginx } from "./nginx.ts";

netTest(
  "curl reads 1 GiB from nginx through the death of its host",
  ["nginx", "curl"],
  (context) =>
    downloadThroughCrashes(context, {
      family: 4,
      rounds: 50,
      server: nginx,
      client: (url) => ["curl", "--silent", "--show-error", "--max-time", "120", url],
    }),
);
