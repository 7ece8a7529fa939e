/**
 * nginx.ts - an nginx for each host: one worker, files from a directory, nothing shared but those
 */

/**
 * Writes a host's configuration.
 *
 * @param host Name of the host.
 * @param directory Where it is written; the files that are served lie in `directory`/files.
 * @param more Further directives of the server.
 * @returns The command that starts nginx in the foreground.
 */
export async function nginx(host: string, directory: string, more = ""): Promise<string[]> {
  const path = `${directory}/nginx-${host}.conf`;
  await Deno.writeTextFile(path, nginxConfig(host, directory, more));
  return ["nginx", "-c", path, "-g", "daemon off;"];
}

/** A configuration that shares nothing with the other host's but the files it serves. */
function nginxConfig(host: string, directory: string, more: string): string {
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
    ${more}
  }
}
`;
}
