/**
 * address_test.ts - read, write and refuse addresses and endpoints
 *
 * Texts are compared with RFC 5952, octets with the layouts of ip(7) and ipv6(7).
 */
import { deepStrictEqual, strictEqual, throws } from "node:assert/strict";
import {
  addressOfBytes,
  decodeSockaddr,
  encodeSockaddr,
  formatHostPort,
  parseAddress,
  parseHostPort,
} from "../../runtime/io/address.ts";

Deno.test("parseAddress() gives the canonical text of RFC 5952", () => {
  const cases = [
    ["10.0.0.1", "10.0.0.1"],
    ["0.0.0.0", "0.0.0.0"],
    ["::", "::"],
    ["::1", "::1"],
    ["fd00::", "fd00::"],
    ["FD00:0::01", "fd00::1"],
    ["1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"],
    ["1:0:3:4:5:6:7:8", "1:0:3:4:5:6:7:8"],
    ["1:0:0:4:0:0:0:8", "1:0:0:4::8"],
    ["1:0:0:4:0:0:7:8", "1::4:0:0:7:8"],
    ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
    ["::ffff:10.0.0.1", "::ffff:a00:1"],
  ];
  for (const [text, canonical] of cases) {
    const address = parseAddress(text);
    strictEqual(address.text, canonical);
    deepStrictEqual(addressOfBytes(address.bytes), address);
  }
});

Deno.test("parseAddress() refuses what is no address", () => {
  const texts = ["", "1.2.3", "1.2.3.4.", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.4:5", ":"];
  texts.push("1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "1:2:3:4::5:6:7:8", ":::", "12345::");
  texts.push("fe80::1%eth0", "1.2.3.4::", "::g", ":1::", "a.b.c.d", "::1.2.3", " ::1");
  for (const text of texts) throws(() => parseAddress(text), RangeError, text);
});

Deno.test("parseHostPort() undoes formatHostPort()", () => {
  for (const text of ["10.0.0.1:7946", "[fd00::1]:7946", "0.0.0.0:0", "[::]:65535"]) {
    strictEqual(formatHostPort(parseHostPort(text)), text);
  }
});

Deno.test("parseHostPort() refuses what is no address and port", () => {
  const texts = [
    "10.0.0.1",
    "[10.0.0.1]:3",
    "fd00::1:5",
    "1.2.3.4:65536",
    ":5",
    "[fe80::1%eth0]:3",
  ];
  texts.push("1.2.3.4:", "[]:1", "host:80", "[::1]", "[::1]:-1", "1.2.3.4:1e3", "1.2.3.4:000001");
  for (const text of texts) throws(() => parseHostPort(text), RangeError, text);
});

Deno.test("encodeSockaddr() writes sockaddr_in as in ip(7)", () => {
  deepStrictEqual(
    encodeSockaddr(parseHostPort("10.1.2.3:7946")),
    Uint8Array.of(2, 0, 0x1f, 0x0a, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0),
  );
});

Deno.test("encodeSockaddr() writes sockaddr_in6 as in ipv6(7)", () => {
  const expected = new Uint8Array(28);
  expected.set([10, 0, 0x1f, 0x0a]);
  expected.set([0xfd], 8);
  expected[23] = 1;
  deepStrictEqual(encodeSockaddr(parseHostPort("[fd00::1]:7946")), expected);
});

Deno.test("decodeSockaddr() undoes encodeSockaddr() and refuses what is cut or foreign", () => {
  for (const text of ["10.1.2.3:7946", "[fd00::1]:7946"]) {
    const bytes = encodeSockaddr(parseHostPort(text));
    strictEqual(formatHostPort(decodeSockaddr(bytes)), text);
    for (let length = 0; length < bytes.length; length++) {
      throws(() => decodeSockaddr(bytes.subarray(0, length)), RangeError);
    }
  }
  throws(() => decodeSockaddr(new Uint8Array(28).fill(1)), RangeError);
});
