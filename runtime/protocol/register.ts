/**
 * register.ts - who holds the authority for a service: the rule that every arbiter follows
 *
 * Theory of operation
 * The register of a service holds one value, or none yet: the newest epoch that was ever given out,
 * and to whom. It changes by claims alone, each a compare-and-swap:
 *
 *   claim(expect, voids, epoch, owner, token, heirs)
 *     the value is this very claim already     -> granted again: its first answer was lost
 *     the value has heirs, and neither one of
 *     them nor its owner is the new owner      -> lost
 *     value's epoch <= expect                  -> granted, the claim becomes the value
 *     it is void, and follows on <= expect     -> the same
 *     else                                     -> lost, the answer tells the value
 *
 * `expect` is the epoch of the term the claimant has been part of, so a claimant that has missed a
 * change of hands can never win. `voids` are claims without an answer, which may have been granted,
 * but on which those who made them will never act. A value tells on which term it follows, as one that
 * is void hides that one: who was no part of it has missed a change of hands still. A register that is empty, or older than what the
 * claimant knows (it was made anew), grants too: the first claim after that decides.
 *
 * Of more than two replicas a value names those who may have a part in it: its owner, and the heirs who
 * alone may follow it. Without that, a replica that is cut off from all could be granted what the heirs'
 * leases let the owner do. Only the owner adds to them: of what another one names, those are kept that the
 * value before named too. Else a value that is void could let somebody in whom the owner before it, who
 * speaks on, has no lease from. With two replicas there is no third to be kept out, and no heir is named.
 *
 * A token is chosen anew at each start of a daemon. It keeps a daemon that was restarted from taking
 * its former life's claim for its own.
 *
 * Sources: DESIGN section 6; Herlihy 1991, "Wait-free synchronization" (compare-and-swap).
 */

/** Most peers of a node. */
export const PEERS_MAX = 7;
/** Most voids of one claim: the claimant's own, its peers', and one that was given to it. */
export const VOIDS_MAX: number = PEERS_MAX + 2;
/** Largest epoch: it travels as an unsigned number of 32 bits. */
export const EPOCH_MAX = 0xffffffff;

/** What the register of a service holds. */
export interface RegisterValue {
  /** The newest epoch that was given out. */
  epoch: number;
  /** Name of the node that has it. */
  owner: string;
  /** Which life of that node claimed it. */
  token: string;
  /** The term that its claimant had been part of. */
  follows: number;
  /** Who alone may have it next, beside the owner; PEERS_MAX at most, anybody when not given. */
  heirs?: string[];
}

/** The wish to change it. */
export interface Claim extends Omit<RegisterValue, "follows"> {
  /** The term the claimant has been part of. */
  expect: number;
  /** Values that nobody acts on; VOIDS_MAX at most. */
  voids: Void[];
}

/** Values of one life of a node that it will never act on. */
export interface Void {
  /** Which life. */
  token: string;
  /** Its values up to this epoch. */
  epoch: number;
}

/** What becomes of a claim. */
export interface Decision {
  /** Whether the claimant has the epoch. */
  granted: boolean;
  /** What the register holds now; null when it is empty. */
  value: RegisterValue | null;
}

/** The rule: what becomes of `claim` at a register that holds `value`. */
export function decide(value: RegisterValue | null, claim: Claim): Decision {
  const { expect, voids, epoch, owner, token, heirs } = claim;
  const isAgain = value !== null && value.epoch === epoch && value.owner === owner &&
    value.token === token;
  if (isAgain) return { granted: true, value };
  const isVoid = voids.some((v) => v.token === value?.token && value.epoch <= v.epoch);
  const isFree = value === null || value.epoch <= expect || (isVoid && value.follows <= expect);
  const named = value?.heirs === undefined ? null : [value.owner, ...value.heirs];
  const isThird = named !== null && !named.includes(owner);
  if (isFree && !isThird && epoch > expect && epoch > (value?.epoch ?? 0)) {
    const next = { epoch, owner, token, follows: expect };
    if (heirs === undefined) return { granted: true, value: next };
    const adds = named === null || owner === value!.owner;
    const kept = adds ? heirs : heirs.filter((heir) => named.includes(heir));
    return { granted: true, value: { ...next, heirs: kept } };
  }
  return { granted: false, value };
}

/**
 * Reads voids that came from elsewhere.
 *
 * @returns Null when they are none.
 */
export function asVoids(raw: unknown): Void[] | null {
  if (!Array.isArray(raw) || raw.length > VOIDS_MAX) return null;
  const voids: Void[] = [];
  for (const entry of raw) {
    if (typeof entry !== "object" || entry === null) return null;
    const { token, epoch } = entry as Record<string, unknown>;
    if (!isWord(token) || !isEpoch(epoch)) return null;
    voids.push({ token, epoch });
  }
  return voids;
}

/**
 * Reads a value that came from elsewhere.
 *
 * @returns Null when it is none.
 */
export function asRegisterValue(raw: unknown): RegisterValue | null {
  if (typeof raw !== "object" || raw === null) return null;
  // A value without it, from an earlier version, hides nothing: it follows on itself.
  const { epoch, owner, token, follows = epoch, heir, ...rest } = raw as Record<string, unknown>;
  // An earlier version named one.
  const { heirs = heir === undefined ? undefined : [heir] } = rest;
  if (!isEpoch(epoch) || !isWord(owner) || !isWord(token) || !isEpoch(follows)) return null;
  if (heirs === undefined) return { epoch, owner, token, follows };
  return isHeirs(heirs) ? { epoch, owner, token, follows, heirs } : null;
}

/** Whether `value` can be the heirs of a value: at most PEERS_MAX names. */
export function isHeirs(value: unknown): value is string[] {
  return Array.isArray(value) && value.length <= PEERS_MAX && value.every(isWord);
}

/** Whether `value` is an epoch: a whole number from 0 to EPOCH_MAX. */
export function isEpoch(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= EPOCH_MAX;
}

/** Whether `value` can be a name or token: 1 to 64 printable ASCII characters without a space. */
export function isWord(value: unknown): value is string {
  return typeof value === "string" && /^[!-~]{1,64}$/.test(value);
}
