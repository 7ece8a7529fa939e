/*
 * core_twin.c - the core's busiest routines as a C programmer would write them
 *
 * For comparison only: bench/core.ts compiles it with "cc -O3" when there is a compiler; Holdfast
 * never runs it. It is plain, portable C, without intrinsics and without -march, as a distribution
 * would compile it. It assumes a little-endian machine, as the core does.
 *
 *   twin_sum        RFC 1071
 *   twin_digest     the sum of core/stream/digest.ts, without its look for HTTP's Date
 *   twin_log        a ring that takes segments in any order and gives them on in order
 *   twin_find       the same open addressing as core/flow/table.ts
 *   twin_translate  parse, look the flow up, shift SEQ, ACK, SACK and timestamps, repair the
 *                   checksum (RFC 1624). The core does this and more: it also judges whether the
 *                   segment is acceptable and follows windows and what the client has been shown.
 *
 * One thread, one instance: the state is static.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VNET 10
#define NEEDS_CSUM 1

static uint8_t *base;

/* Memory that the other calls name by offsets. */
void twin_base(uint8_t *memory) { base = memory; }

static uint32_t fold(uint64_t wide)
{
	while (wide >> 16)
		wide = (wide & 0xffff) + (wide >> 16);
	return (uint32_t)wide;
}

static uint32_t sum(const uint8_t *p, uint32_t length, uint64_t wide)
{
	uint32_t word;
	for (; length >= 4; p += 4, length -= 4) {
		memcpy(&word, p, 4);
		wide += word;
	}
	if (length >= 2) {
		uint16_t half;
		memcpy(&half, p, 2);
		wide += half;
		p += 2;
		length -= 2;
	}
	if (length)
		wide += *p;
	return fold(wide);
}

uint32_t twin_sum(uint32_t at, uint32_t length) { return sum(base + at, length, 0); }

#define BLOCK 4096
#define KEYS 512
#define P1 0x9e3779b185ebca87u
#define P2 0xc2b2ae3d27d4eb4fu

static int16_t digest_keys[BLOCK / 2];

static void digest_format(void)
{
	int16_t primes[KEYS];
	uint32_t random = 1;
	for (int i = 0, candidate = 32749; i < KEYS; candidate -= 2) {
		int divisor = 3;
		while (divisor * divisor <= candidate && candidate % divisor)
			divisor += 2;
		if (divisor * divisor > candidate)
			primes[i++] = (int16_t)candidate;
	}
	for (uint32_t i = KEYS - 1; i > 0; i--) {
		random = random * 1664525 + 1013904223;
		uint32_t j = (random >> 16) % (i + 1);
		int16_t key = primes[i];
		primes[i] = primes[j];
		primes[j] = key;
	}
	for (uint32_t word = 0; word < BLOCK / 2; word++)
		digest_keys[word] =
			primes[((word >> 3 << 1 | (word & 1)) + (word >> 1 & 3) * 128) % KEYS];
}

static uint64_t digest_round(uint64_t sum, uint64_t x)
{
	sum += x * P2;
	return (sum << 31 | sum >> 33) * P1;
}

/* Digest of a whole stream. */
uint64_t twin_digest(uint32_t at, uint32_t length)
{
	uint64_t sum = P1;
	uint32_t done = 0;
	if (!digest_keys[0])
		digest_format();
	for (;;) {
		uint32_t lanes[4] = { 0, 0, 0, 0 }, part = length - done;
		if (part > BLOCK)
			part = BLOCK;
		const uint8_t *p = base + at + done;
		uint32_t word = 0;
		for (; (word + 8) * 2 <= part; word += 8) {
			int16_t w[8];
			memcpy(w, p + word * 2, sizeof w);
			for (int lane = 0; lane < 4; lane++)
				lanes[lane] += (uint32_t)(w[lane * 2] * digest_keys[word + lane * 2] +
							  w[lane * 2 + 1] *
								  digest_keys[word + lane * 2 + 1]);
		}
		for (; word * 2 < part; word++) {
			int16_t w = 0;
			memcpy(&w, p + word * 2, part - word * 2 < 2 ? 1 : 2);
			lanes[word >> 1 & 3] += (uint32_t)(w * digest_keys[word]);
		}
		done += part;
		uint64_t value = digest_round(
			digest_round(sum + done, lanes[0] | (uint64_t)lanes[1] << 32),
			lanes[2] | (uint64_t)lanes[3] << 32);
		if (part < BLOCK)
			return value;
		sum = value;
	}
}

#define RING (1u << 20)
#define PENDING 64

static uint8_t ring[RING];
static uint32_t ring_next;

static void ring_copy(uint8_t *out, const uint8_t *in, uint32_t at, uint32_t length)
{
	uint32_t first = RING - at % RING < length ? RING - at % RING : length;
	if (in) {
		memcpy(ring + at % RING, in, first);
		memcpy(ring, in + first, length - first);
	} else {
		memcpy(out, ring + at % RING, first);
		memcpy(out + first, ring, length - first);
	}
}

/*
 * Takes `count` segments from `at`, the last one first when `reversed`, and gives all that is in
 * order on to `to`. Returns how many octets were given on.
 */
uint32_t twin_log(uint32_t at, uint32_t length, uint32_t count, uint32_t reversed, uint32_t to)
{
	uint32_t start = ring_next, edge = start, pending[PENDING], waiting = 0;
	if (count > PENDING)
		return 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t order = reversed ? count - 1 - i : i, seq = start + order * length;
		ring_copy(0, base + at + (size_t)i * length, seq, length);
		if (seq != edge) {
			pending[waiting++] = seq;
			continue;
		}
		edge += length;
		for (uint32_t j = waiting; j-- > 0;) {
			if (pending[j] != edge)
				continue;
			edge += length;
			pending[j] = pending[--waiting];
			j = waiting;
		}
	}
	for (; ring_next != edge; ring_next += length, to += length)
		ring_copy(base + to, 0, ring_next, length);
	return edge - start;
}

struct entry {
	uint32_t index, hash;
};
struct key {
	uint32_t a[4], ports;
};

static struct entry *table;
static struct key *keys;
static uint32_t mask;

static uint32_t hash_of(const struct key *k)
{
	uint64_t h = (k->a[0] | (uint64_t)k->ports << 32) * 0x9e3779b97f4a7c15u;
	h ^= h >> 29;
	h = (h ^ (k->a[1] | (uint64_t)k->a[2] << 32)) * 0xbf58476d1ce4e5b9u;
	h ^= h >> 32;
	h = (h ^ k->a[3]) * 0x94d049bb133111ebu;
	return (uint32_t)(h ^ (h >> 31));
}

/* Makes an empty table; 0 when there is no memory. */
uint32_t twin_table(uint32_t capacity)
{
	uint32_t size = 1024;
	while (size < capacity * 2)
		size *= 2;
	free(table);
	free(keys);
	table = calloc(size, sizeof *table);
	keys = calloc(capacity, sizeof *keys);
	mask = size - 1;
	return table && keys;
}

static uint32_t find(const struct key *k)
{
	uint32_t hash = hash_of(k);
	for (uint32_t slot = hash & mask; table[slot].index; slot = (slot + 1) & mask)
		if (table[slot].hash == hash && !memcmp(&keys[table[slot].index - 1], k, sizeof *k))
			return table[slot].index;
	return 0;
}

void twin_insert(uint32_t index, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
		 uint32_t ports)
{
	struct key k = { { a0, a1, a2, a3 }, ports };
	uint32_t hash = hash_of(&k), slot = hash & mask;
	keys[index] = k;
	while (table[slot].index)
		slot = (slot + 1) & mask;
	table[slot] = (struct entry){ index + 1, hash };
}

uint32_t twin_find(uint32_t a0, uint32_t ports)
{
	struct key k = { { a0, 0, 0, 0 }, ports };
	return find(&k);
}

static struct {
	uint32_t seq, ack, tsval, tsecr;
} shift;

/* What is added to a segment's numbers. */
void twin_shift(uint32_t seq, uint32_t ack, uint32_t tsval, uint32_t tsecr)
{
	shift.seq = seq;
	shift.ack = ack;
	shift.tsval = tsval;
	shift.tsecr = tsecr;
}

static uint32_t get16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }

/* Adds to the 32-bit field at `p`, `offset` octets into the TCP header, and repairs the sum. */
static void add32(uint8_t *tcp, uint32_t offset, uint32_t delta, int repair)
{
	uint8_t *p = tcp + offset;
	uint32_t before, after;
	uint16_t check;
	memcpy(&before, p, 4);
	after = __builtin_bswap32(__builtin_bswap32(before) + delta);
	memcpy(p, &after, 4);
	if (!repair || !delta)
		return;
	uint32_t s = fold((uint64_t)(~before & 0xffff) + (~before >> 16) + (after & 0xffff) +
			  (after >> 16));
	if (offset & 1)
		s = (s << 8 | s >> 8) & 0xffff;
	memcpy(&check, tcp + 16, 2);
	check = (uint16_t)~fold(s + (uint16_t)~check);
	memcpy(tcp + 16, &check, 2);
}

/* Translates the packet at `at`; `from_server` says whose address is the client's. 0: not ours. */
static uint32_t translate(uint8_t *at, uint32_t length, uint32_t from_server)
{
	uint8_t *ip = at + VNET, *tcp;
	uint32_t v6 = ip[0] >> 4 == 6, left;
	struct key k = { { 0, 0, 0, 0 }, 0 };
	if (length < VNET + 40)
		return 0;
	if (!v6) {
		uint32_t head = (ip[0] & 15) * 4, total = get16(ip + 2);
		if (head < 20 || total < head + 20 || total > length - VNET || ip[9] != 6 ||
		    (get16(ip + 6) & 0x3fff))
			return 0;
		tcp = ip + head;
		left = total - head;
		memcpy(k.a, from_server ? ip + 16 : ip + 12, 4);
	} else {
		left = get16(ip + 4);
		if (ip[6] != 6 || left < 20 || left > length - VNET - 40)
			return 0;
		tcp = ip + 40;
		memcpy(k.a, from_server ? ip + 24 : ip + 8, 16);
	}
	uint32_t head = (tcp[12] >> 4) * 4;
	if (head < 20 || head > left)
		return 0;
	int repair = !(at[0] & NEEDS_CSUM);
	if (repair && !from_server && !(at[0] & 2)) { /* our own kernel's sums are believed */
		uint64_t pseudo = sum(v6 ? ip + 8 : ip + 12, v6 ? 32 : 8, 0);
		pseudo += __builtin_bswap16((uint16_t)left) + (6u << 8);
		if (sum(tcp, left, pseudo) != 0xffff)
			return 0;
	}
	k.ports = from_server ? get16(tcp + 2) | get16(tcp) << 16 : get16(tcp) | get16(tcp + 2) << 16;
	if (!find(&k))
		return 0;
	if (shift.seq)
		add32(tcp, 4, shift.seq, repair);
	if (shift.ack)
		add32(tcp, 8, shift.ack, repair);
	for (uint32_t i = 20; i < head && tcp[i];) {
		if (tcp[i] == 1) {
			i++;
			continue;
		}
		if (i + 1 >= head || tcp[i + 1] < 2 || i + tcp[i + 1] > head)
			return 0;
		if (tcp[i] == 8 && tcp[i + 1] == 10) {
			add32(tcp, i + 2, shift.tsval, repair);
			add32(tcp, i + 6, shift.tsecr, repair);
		}
		if (tcp[i] == 5)
			for (uint32_t j = 2; j + 4 <= tcp[i + 1]; j += 4)
				add32(tcp, i + j, shift.ack, repair);
		i += tcp[i + 1];
	}
	return 1;
}

/*
 * Puts the first `head` octets of the packet at `from` back to `at` and translates it there, `count`
 * times, a slot of `slot` octets each. Returns how many were ours.
 */
uint32_t twin_translate(uint32_t at, uint32_t from, uint32_t head, uint32_t length, uint32_t count,
			uint32_t slot, uint32_t from_server)
{
	uint32_t done = 0;
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *to = base + at + (size_t)i * slot;
		memcpy(to, base + from, head);
		done += translate(to, length, from_server);
	}
	return done;
}
