/**
 * chain.ts - octets kept by stream offset, in chains of fixed blocks
 *
 * An input log and a parked flight are each a chain: a list of blocks of BLOCK octets; block k holds
 * the octets [seq + k * BLOCK, seq + (k + 1) * BLOCK). A chain may have holes that were never
 * written: what is valid is known by the owner (rcvNxt and ranges, parkBase and parkEnd). A block
 * goes back to the pool as soon as all its octets are behind the owner's left edge.
 *
 * Blocks are small, as an idle connection keeps one, so a log may be millions of them long. Nothing
 * walks a chain from its head, then: appending starts at the last block, filling a hole and reading
 * each where the last one ended, and a chain that is cleared goes to the pool as a whole.
 */
import { BLOCK } from "../limits";
import { state } from "../state";

/** A chain, embedded in the connection record. */
@unmanaged
export class Chain {
  head: u32 = 0;
  tail: u32 = 0;
  /** First octet of the first block. */
  seq: u32 = 0;
  /** First octet of the last block. */
  tailSeq: u32 = 0;
  /** Block where the last read ended, 0 for none, and its first octet. */
  cursor: u32 = 0;
  cursorSeq: u32 = 0;
  /** The same of the last octets that were written before the last block: into a hole. */
  hole: u32 = 0;
  holeSeq: u32 = 0;
}

function link(block: u32): usize {
  return state().links + (<usize> (block - 1) << 2);
}

function octets(block: u32): usize {
  return state().blocks + <usize> (block - 1) * BLOCK;
}

function take(): u32 {
  const s = state();
  const block = s.freeBlock;
  if (!block) return 0;
  s.freeBlock = load<u32>(link(block));
  s.blocksFree--;
  store<u32>(link(block), 0);
  return block;
}

function give(block: u32): void {
  const s = state();
  store<u32>(link(block), s.freeBlock);
  s.freeBlock = block;
  s.blocksFree++;
}

/** Frees every block. */
export function clear(chain: Chain): void {
  if (chain.head) {
    const s = state();
    store<u32>(link(chain.tail), s.freeBlock);
    s.freeBlock = chain.head;
    s.blocksFree += (chain.tailSeq - chain.seq) / BLOCK + 1;
  }
  chain.head = 0;
  chain.tail = 0;
  chain.cursor = 0;
  chain.hole = 0;
}

/**
 * Stores `length` octets at `seq`. `base` is the owner's left edge: an empty chain starts there and
 * not at `seq`, as a hole before it may be filled later. Returns false, possibly with a part stored,
 * when the pool is empty or `seq` lies before the chain.
 */
export function write(chain: Chain, base: u32, seq: u32, from: usize, length: u32): bool {
  if (!length) return true;
  if (!chain.head) {
    const first = take();
    if (!first) return false;
    chain.head = first;
    chain.tail = first;
    chain.seq = base;
    chain.tailSeq = base;
  }
  if (<i32> (seq - chain.seq) < 0) return false;
  const inTail = <i32> (seq - chain.tailSeq) >= 0;
  let block = chain.tail;
  let blockSeq = chain.tailSeq;
  if (!inTail) {
    const onward = chain.hole != 0 && <i32> (seq - chain.holeSeq) >= 0;
    block = onward ? chain.hole : chain.head;
    blockSeq = onward ? chain.holeSeq : chain.seq;
  }
  let offset = seq - blockSeq;
  while (length) {
    while (offset >= BLOCK) {
      let next = load<u32>(link(block));
      if (!next) {
        next = take();
        if (!next) return false;
        store<u32>(link(block), next);
        chain.tail = next;
        chain.tailSeq += BLOCK;
      }
      block = next;
      blockSeq += BLOCK;
      offset -= BLOCK;
    }
    const room = BLOCK - offset;
    const part = length < room ? length : room;
    memory.copy(octets(block) + offset, from, part);
    from += part;
    offset += part;
    length -= part;
  }
  if (!inTail) {
    chain.hole = block;
    chain.holeSeq = blockSeq;
  }
  return true;
}

/** Copies `length` octets from `seq` on; they must have been written. */
export function read(chain: Chain, seq: u32, to: usize, length: u32): void {
  while (length) {
    const part = seek(chain, seq, length);
    if (!part) return;
    memory.copy(to, placeOf(chain, seq), part);
    to += part;
    seq += part;
    length -= part;
  }
}

/** Where the octet at `seq` lies, after `seek()` to it. */
export function placeOf(chain: Chain, seq: u32): usize {
  return octets(chain.cursor) + (seq - chain.cursorSeq);
}

/** Moves the cursor to the block of `seq`; returns how many of `length` octets are in it, 0 when there is none. */
export function seek(chain: Chain, seq: u32, length: u32): u32 {
  if (!chain.cursor || <i32> (seq - chain.cursorSeq) < 0) {
    chain.cursor = chain.head;
    chain.cursorSeq = chain.seq;
  }
  while (chain.cursor && seq - chain.cursorSeq >= BLOCK) {
    chain.cursor = load<u32>(link(chain.cursor));
    chain.cursorSeq += BLOCK;
  }
  if (!chain.cursor) return 0;
  const room = BLOCK - (seq - chain.cursorSeq);
  return length < room ? length : room;
}

/** Frees the blocks that hold nothing at or after `seq`. */
export function trim(chain: Chain, seq: u32): void {
  if (!chain.head) return;
  if (<i32> (seq - chain.tailSeq) >= <i32> BLOCK) return clear(chain);
  while (<i32> (seq - chain.seq) >= <i32> BLOCK) {
    const next = load<u32>(link(chain.head));
    if (chain.cursor == chain.head) chain.cursor = 0;
    if (chain.hole == chain.head) chain.hole = 0;
    give(chain.head);
    chain.head = next;
    chain.seq += BLOCK;
  }
}

/** Links all blocks into the pool. */
export function format(): void {
  const s = state();
  s.freeBlock = 0;
  s.blocksFree = 0;
  for (let block = s.blockCount; block > 0; block--) give(block);
}
