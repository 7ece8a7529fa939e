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

netTest(
  "curl reads 1 GiB from nginx through the death of its host",
  ["nginx", "curl"],
  (context) =>
    downloadThroughCrashes(context, {
      family: 4,
      rounds: 50,
      server: async (host, directory) => {
        const path = `${directory}/nginx-${host}.conf`;
        await Deno.writeTextFile(path, nginxConfig(host, directory));
        return ["nginx", "-c", path, "-g", "daemon off;"];
      },
      client: (url) => ["curl", "--silent", "--show-error", "--max-time", "120", url],
    }),
);

/** A configuration that shares nothing with the other host's but the files it serves. */
function nginxConfig(host: string, directory: string): string {
  return `
user root;
worker_processes 1;
pid ${directory}/nginx-${host}.pid;
error_log stderr;
events { worker_connections 256; }
http {
  access_log off;
  sendfile on;
  client_body_temp_path ${directory}/nginx-${host}-body;
  proxy_temp_path ${directory}/nginx-${host}-proxy;
  fastcgi_temp_path ${directory}/nginx-${host}-fastcgi;
  uwsgi_temp_path ${directory}/nginx-${host}-uwsgi;
  scgi_temp_path ${directory}/nginx-${host}-scgi;
  server {
    listen 80;
    root ${directory}/files;
  }
}
`;
}
