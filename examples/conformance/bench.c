// Loops for benchmarks: what one call costs, and one of many keys. An error ends
// the guest.

#include "own.h"

enum { DIGITS = 8 };

static bucket open_default(void)
{
	open_result r = store_open(text(""));
	if (r.failed)
		__builtin_trap();
	return r.bucket;
}

static void must(done_result r)
{
	if (r.failed)
		__builtin_trap();
}

// A load is n keys "conformance/bench/00000000" and up, all with one value.
typedef struct {
	u32 n;
	bytes *keys;
	pair *pairs;
	u8 *names, *value;
} load;

static load load_new(u32 first, u32 n, u32 size)
{
	bytes prefix = KEY("bench/");
	u32 len = prefix.len + DIGITS;
	load l = {n, allocate(n * sizeof *l.keys), allocate(n * sizeof *l.pairs), allocate(n * len), allocate(size)};
	__builtin_memset(l.value, 'v', size);
	for (u32 i = 0; i < n; i++) {
		u8 *name = l.names + i * len;
		__builtin_memcpy(name, prefix.ptr, prefix.len);
		for (u32 at = len, rest = first + i; at-- > prefix.len; rest /= 10)
			name[at] = '0' + rest % 10;
		l.keys[i] = (bytes){name, len};
		l.pairs[i] = (pair){l.keys[i], {l.value, size}};
	}
	return l;
}

static void load_free(load l)
{
	release(l.keys);
	release(l.pairs);
	release(l.names);
	release(l.value);
}

// fill sets the keys, in batches that no host should find too large.
EXPORT("fill")
void fill(u32 n, u32 size)
{
	enum { BATCH_KEYS = 1000, BATCH_BYTES = 16 << 20 };
	u32 most = size > BATCH_BYTES / BATCH_KEYS ? BATCH_BYTES / size : BATCH_KEYS;
	if (most == 0)
		most = 1;
	bucket b = open_default();
	for (u32 first = 0; first < n; first += most) {
		u32 rest = n - first;
		load l = load_new(first, rest < most ? rest : most, size);
		must(batch_set_many(b, (pairs){l.pairs, l.n}));
		load_free(l);
	}
	bucket_drop(b);
}

EXPORT("get-many-loop")
void get_many_loop(u32 rounds, u32 n)
{
	bucket b = open_default();
	load l = load_new(0, n, 0);
	for (u32 i = 0; i < rounds; i++) {
		many_result r = batch_get_many(b, (keys){l.keys, n});
		if (r.failed || r.found.len != n)
			__builtin_trap();
		for (u32 k = 0; k < n; k++)
			if (!r.found.ptr[k].some)
				__builtin_trap(); // fill first
		found_free(r.found);
	}
	load_free(l);
	bucket_drop(b);
}

EXPORT("set-many-loop")
void set_many_loop(u32 rounds, u32 n, u32 size)
{
	bucket b = open_default();
	load l = load_new(0, n, size);
	for (u32 i = 0; i < rounds; i++)
		must(batch_set_many(b, (pairs){l.pairs, n}));
	load_free(l);
	bucket_drop(b);
}

// The other loops have one key, the first of the load.

EXPORT("get-loop")
void get_loop(u32 rounds)
{
	bucket b = open_default();
	for (u32 i = 0; i < rounds; i++) {
		get_result r = bucket_get(b, KEY("bench/00000000"));
		if (r.failed || !r.value.some)
			__builtin_trap();
		maybe_free(r.value);
	}
	bucket_drop(b);
}

EXPORT("set-loop")
void set_loop(u32 rounds)
{
	enum { SIZE = 256 };
	bucket b = open_default();
	load l = load_new(0, 1, SIZE);
	for (u32 i = 0; i < rounds; i++)
		must(bucket_set(b, l.pairs[0].key, l.pairs[0].value));
	load_free(l);
	bucket_drop(b);
}

EXPORT("exists-loop")
void exists_loop(u32 rounds)
{
	bucket b = open_default();
	for (u32 i = 0; i < rounds; i++) {
		exists_result r = bucket_exists(b, KEY("bench/00000000"));
		if (r.failed || !r.yes)
			__builtin_trap();
	}
	bucket_drop(b);
}
