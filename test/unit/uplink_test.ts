/**
 * uplink_test.ts - which small network an uplink takes, and when a resolver needs one
 *
 * Pure choices; networks and veths on a real kernel are in test/net/io_test.ts.
 */
import { notStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { isOnlyLoopback } from "../../runtime/io/resolver.ts";
import { chooseNetwork, uplinkName } from "../../runtime/io/uplink.ts";

/** 169.254.x.y as the number of its network of four addresses. */
function networkOf(third: number, fourth: number): number {
  return (third << 6) | (fourth >> 2);
}

Deno.test("uplinkName() is an interface name that follows from service and namespace", () => {
  strictEqual(uplinkName("web", "hf-web"), uplinkName("web", "hf-web"));
  notStrictEqual(uplinkName("web", "hf-web"), uplinkName("we", "bhf-web"));
  ok(uplinkName("x".repeat(100), "y".repeat(63)).length <= 15);
});

Deno.test("chooseNetwork() stays off reserved and metadata addresses", () => {
  for (const hash of [0, 1, 0xffffffff, 16255, 16256, networkOf(169, 0) - 64]) {
    const network = chooseNetwork(hash, []);
    ok(network >= networkOf(1, 0) && network < networkOf(255, 0));
    notStrictEqual(network >> 6, 169);
  }
});

Deno.test("chooseNetwork() passes over networks near to addresses of the host", () => {
  const free = chooseNetwork(0, []);
  strictEqual(free, networkOf(1, 0));
  strictEqual(chooseNetwork(0, [{ local: "169.254.1.2", prefixlen: 30 }]), free + 1);
  strictEqual(chooseNetwork(0, [{ local: "169.254.1.200", prefixlen: 16 }]), networkOf(2, 0));
  strictEqual(chooseNetwork(0, [{ local: "10.0.1.2", prefixlen: 24 }]), free);
  const ipv6 = `fd48:6f6c:6466:${free.toString(16)}::1`;
  strictEqual(chooseNetwork(0, [{ local: ipv6, prefixlen: 64 }]), free + 1);
  const all = Array.from({ length: 256 }, (_, i) => ({ local: `169.254.${i}.1`, prefixlen: 24 }));
  throws(() => chooseNetwork(0, all), /256 in 169\.254/);
});

Deno.test("isOnlyLoopback() sees whether others can reach the name servers", () => {
  ok(isOnlyLoopback("nameserver 127.0.0.53\noptions edns0\n"));
  ok(isOnlyLoopback("# nameserver 10.0.0.1\nnameserver ::1\n"));
  ok(!isOnlyLoopback("nameserver 127.0.0.53\nnameserver 10.0.0.1\n"));
});
