#include "expect.h"

report so_far;

static void say(const char *words)
{
	u32 len = 0;
	while (words[len])
		len++;
	add(&so_far.failure, (bytes){(const u8 *)words, len});
}

// wrong begins the failure's text; what was got follows, then `wanted`, then what.
static void wrong(const char *what)
{
	say(so_far.check);
	say(": ");
	say(what);
	say(": got ");
}

static void wanted(void) { say(", want "); }

// met ends an expectation.
static bool met(bool ok)
{
	so_far.met += ok;
	return ok;
}

static void say_number(u64 n) { add_number(&so_far.failure, false, n); }

static void say_counter(counter n)
{
#ifdef DRAFT2
	add_number(&so_far.failure, n < 0, n < 0 ? -(u64)n : (u64)n);
#else
	say_number(n);
#endif
}

enum { MOST = 32 }; // bytes of a key or value that are shown

// say_bytes quotes a key or the beginning of a value.
static void say_bytes(bytes b)
{
		say("\"");
	for (u32 i = 0; i < b.len && i < MOST; i++) {
		static const char hex[] = "0123456789abcdef";
		u8 c = b.ptr[i];
		if (c >= ' ' && c <= '~')
			add(&so_far.failure, (bytes){&c, 1});
		else
			add(&so_far.failure, (bytes){(u8[]){'\\', 'x', hex[c >> 4], hex[c & 15]}, 4});
	}
	say("\"");
	if (b.len > MOST) {
		say("... of ");
		say_number(b.len);
		say(" bytes");
	}
}

static void say_maybe(maybe m)
{
	if (m.some)
		say_bytes(m.value);
	else
		say("none");
}

// say_difference says where two values differ if what is shown of them does not.
static void say_difference(maybe a, maybe b)
{
	u32 i = 0;
	while (a.some && b.some && i < a.value.len && i < b.value.len && a.value.ptr[i] == b.value.ptr[i])
		i++;
	if (i < MOST)
		return;
	say(" (they differ at byte ");
	say_number(i);
	say(")");
}

static void say_error(error e) { add_error(&so_far.failure, e); }

static bool maybe_equal(maybe a, maybe b)
{
	return a.some == b.some && (!a.some || bytes_equal(a.value, b.value));
}

bool done(const char *what, done_result r)
{
	if (r.failed) {
		wrong(what);
		say_error(r.error);
		wanted();
		say("ok");
		error_free(r.error);
	}
	return met(!r.failed);
}

static bool option(const char *what, get_result r, maybe want)
{
	bool ok = !r.failed && maybe_equal(r.value, want);
	if (!ok) {
		wrong(what);
		if (r.failed)
			say_error(r.error);
		else
			say_maybe(r.value);
		wanted();
		say_maybe(want);
		if (!r.failed)
			say_difference(r.value, want);
	}
	if (r.failed)
		error_free(r.error);
	else
		maybe_free(r.value);
	return met(ok);
}

bool value(const char *what, get_result r, bytes want) { return option(what, r, (maybe){true, want}); }

bool absent(const char *what, get_result r) { return option(what, r, (maybe)NONE); }

bool exists(const char *what, exists_result r, bool want)
{
	bool ok = !r.failed && r.yes == want;
	if (!ok) {
		wrong(what);
		if (r.failed)
			say_error(r.error);
		else
			say(r.yes ? "true" : "false");
		wanted();
		say(want ? "true" : "false");
	}
	if (r.failed)
		error_free(r.error);
	return met(ok);
}

static bool in_place(const char *what, u32 i, maybe_pair got, bytes key, maybe want)
{
	maybe key_wanted = {want.some, key};
	if (maybe_equal((maybe){got.some, got.pair.key}, key_wanted) &&
	    maybe_equal((maybe){got.some, got.pair.value}, want))
		return true;
	wrong(what);
	say("in place ");
	say_number(i);
	say(" key ");
	say_maybe((maybe){got.some, got.pair.key});
	say(" with value ");
	say_maybe((maybe){got.some, got.pair.value});
	wanted();
	say("key ");
	say_maybe(key_wanted);
	say(" with value ");
	say_maybe(want);
	say_difference((maybe){got.some, got.pair.value}, want);
	return false;
}

bool many(const char *what, many_result r, keys asked, const maybe want[])
{
	if (r.failed || r.found.len != asked.len) {
		wrong(what);
		if (r.failed)
			say_error(r.error);
		else
			say_number(r.found.len);
		wanted();
		say_number(asked.len);
		say(" elements");
		if (r.failed)
			error_free(r.error);
		else
			found_free(r.found);
		return met(false);
	}
	bool ok = true;
	for (u32 i = 0; ok && i < asked.len; i++)
		ok = in_place(what, i, r.found.ptr[i], asked.ptr[i], want[i]);
	found_free(r.found);
	return met(ok);
}

// tick_off counts a listed key in `seen`, where that of the key wanted is.
static bool tick_off(const char *what, bytes key, keys want, bool *seen)
{
	u32 i = 0;
	while (i < want.len && !bytes_equal(key, want.ptr[i]))
		i++;
	if (i < want.len && !seen[i])
		return seen[i] = true;
	wrong(what);
	say_bytes(key);
	say(i < want.len ? " twice" : " listed");
	wanted();
	say(i < want.len ? "it once" : "it not there");
	return false;
}

static bool all_seen(const char *what, keys want, const bool *seen)
{
	for (u32 i = 0; i < want.len; i++) {
		if (seen[i])
			continue;
		wrong(what);
		say_bytes(want.ptr[i]);
		say(" in no page");
		wanted();
		say("it in one");
		return false;
	}
	return true;
}

bool listed(const char *what, bytes identifier, bytes prefix, keys want)
{
	bool *seen = allocate(want.len + 1);
	__builtin_memset(seen, 0, want.len);
	cursor at = {0};
	bool ok = true;
	u32 met_before = so_far.met; // a listing counts once, whatever the number of pages
	do {
		bucket b; // for each page its own, since a cursor is good in any
		keys page = {0};
		ok = opened(what, store_open(identifier), &b);
		if (!ok)
			break;
		ok = done(what, next_page(b, &at, &page));
		bucket_drop(b);
		for (u32 i = 0; ok && i < page.len; i++)
			if (bytes_begin(page.ptr[i], prefix))
				ok = tick_off(what, page.ptr[i], want, seen);
		keys_free(page);
	} while (ok && at.some);
	cursor_free(at);
	ok = ok && all_seen(what, want, seen);
	release(seen);
	so_far.met = met_before;
	return met(ok);
}

bool sum(const char *what, counter_result r, counter want)
{
	bool ok = !r.failed && r.sum == want;
	if (!ok) {
		wrong(what);
		if (r.failed)
			say_error(r.error);
		else
			say_counter(r.sum);
		wanted();
		say_counter(want);
	}
	if (r.failed)
		error_free(r.error);
	return met(ok);
}

bool refused_with(const char *what, bool failed, error e, error_kind want)
{
	bool ok = failed && e.kind == want && (want != OTHER || e.text.len > 0);
	if (!ok) {
		wrong(what);
		if (failed)
			say_error(e);
		else
			say("ok");
		wanted();
		say_error((error){want, text("...")});
	}
	if (failed)
		error_free(e);
	return met(ok);
}

bool opened(const char *what, open_result r, bucket *b)
{
	if (!r.failed)
		*b = r.bucket;
	return done(what, (done_result){r.failed, r.error});
}

bool number(const char *what, u32 got, u32 want)
{
	if (got != want) {
		wrong(what);
		say_number(got);
		wanted();
		say_number(want);
	}
	return met(got == want);
}

#ifdef DRAFT2

bool made(const char *what, cas_result r, cas *c)
{
	if (!r.failed)
		*c = r.cas;
	return done(what, (done_result){r.failed, r.error});
}

static void say_swap(swap_result r)
{
	if (!r.failed)
		say("ok");
	else if (r.error.kind == CAS_FAILED)
		say("cas-failed");
	else
		say_error(r.error.error);
}

static void swap_free(swap_result r)
{
	if (r.failed && r.error.kind == CAS_FAILED)
		cas_drop(r.error.fresh);
	else if (r.failed)
		error_free(r.error.error);
}

bool swapped(const char *what, swap_result r)
{
	if (r.failed) {
		wrong(what);
		say_swap(r);
		wanted();
		say("ok");
		swap_free(r);
	}
	return met(!r.failed);
}

bool outdated(const char *what, swap_result r, cas *fresh)
{
	bool ok = r.failed && r.error.kind == CAS_FAILED;
	if (ok) {
		*fresh = r.error.fresh;
	} else {
		wrong(what);
		say_swap(r);
		wanted();
		say("cas-failed");
		swap_free(r);
	}
	return met(ok);
}

bool swap_refused(const char *what, swap_result r, error_kind want)
{
	if (r.failed && r.error.kind == STORE_ERROR)
		return refused_with(what, true, r.error.error, want);
	wrong(what);
	say_swap(r);
	wanted();
	say("the store's error");
	swap_free(r);
	return met(false);
}

#endif

bytes noise(u32 seed, u32 len)
{
	u8 *p = allocate(len);
	u32 x = seed * 2654435769u + 1; // Marsaglia's xorshift32, "Xorshift RNGs", 2003
	for (u32 i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		p[i] = x;
	}
	return (bytes){p, len};
}

bytes long_key(u32 len)
{
	bytes prefix = KEY("long/");
	u8 *p = allocate(len);
	__builtin_memcpy(p, prefix.ptr, prefix.len);
	__builtin_memset(p + prefix.len, 'k', len - prefix.len);
	return (bytes){p, len};
}
