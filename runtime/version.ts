/** version.ts - the version of this program; deno.json and package.json say the same. */

/** Version, as in deno.json. */
export const VERSION = "0.1.0";
