#include "checks.h"

bool check_opening(bucket b)
{
	(void)b;
	return refused("open of \"forbidden\"", store_open(text("forbidden")), ACCESS_DENIED)
	    && refused("open of \"nowhere\"", store_open(text("nowhere")), NO_SUCH_STORE);
}

bool check_one_key(bucket b)
{
	bytes prefix = KEY("one/"), bar = KEY("one/bar"), qux = KEY("one/qux");
	return done("delete of an absent key", bucket_delete(b, bar))
	    && exists("exists of an absent key", bucket_exists(b, bar), false)
	    && absent("get of an absent key", bucket_get(b, bar))
	    && listed("keys before any is set", text(""), prefix, KEYS())

	    && done("set", bucket_set(b, bar, text("baz")))
	    && exists("exists after set", bucket_exists(b, bar), true)
	    && value("get after set", bucket_get(b, bar), text("baz"))
	    && listed("keys after set", text(""), prefix, KEYS(bar))

	    && done("set of a key that is there", bucket_set(b, bar, text("wow")))
	    && value("get after another set", bucket_get(b, bar), text("wow"))
	    && listed("keys after another set", text(""), prefix, KEYS(bar))

	    && done("set of another key", bucket_set(b, qux, text("yay")))
	    && value("get of the first key", bucket_get(b, bar), text("wow"))
	    && value("get of the second key", bucket_get(b, qux), text("yay"))
	    && listed("keys of two", text(""), prefix, KEYS(bar, qux))

	    && done("delete", bucket_delete(b, bar))
	    && done("delete of a deleted key", bucket_delete(b, bar))
	    && exists("exists of a deleted key", bucket_exists(b, bar), false)
	    && absent("get of a deleted key", bucket_get(b, bar))
	    && exists("exists of a key beside a deleted one", bucket_exists(b, qux), true)
	    && listed("keys after delete", text(""), prefix, KEYS(qux))

	    && done("set of a deleted key", bucket_set(b, bar, text("again")))
	    && value("get of a key set again", bucket_get(b, bar), text("again"));
}

bool check_values(bucket b)
{
	u8 every[256];
	for (u32 i = 0; i < COUNT(every); i++)
		every[i] = i;
	bytes all = {every, COUNT(every)};
	bytes large = noise(1, 3 << 20), other = noise(2, 3 << 20);
	bytes empty = KEY("value/empty"), binary = KEY("value/binary"), big = KEY("value/large");
	bool ok = done("set of an empty value", bucket_set(b, empty, text("")))
	       && value("get of an empty value", bucket_get(b, empty), text(""))
	       && exists("exists of an empty value", bucket_exists(b, empty), true)
	       && done("set", bucket_set(b, binary, text("something")))
	       && done("set of nothing over something", bucket_set(b, binary, text("")))
	       && value("get of nothing over something", bucket_get(b, binary), text(""))
	       && done("set of every byte", bucket_set(b, binary, all))
	       && value("get of every byte", bucket_get(b, binary), all)
	       && done("set of 3 MiB", bucket_set(b, big, large))
	       && value("get of 3 MiB", bucket_get(b, big), large)
	       && done("set of 3 MiB over others", bucket_set(b, big, other))
	       && value("get of the other 3 MiB", bucket_get(b, big), other)
	       && exists("exists of 3 MiB", bucket_exists(b, big), true)
	       && done("set of a short value over a large one", bucket_set(b, big, text("short")))
	       && value("get of a short value after a large one", bucket_get(b, big), text("short"));
	bytes_free(large);
	bytes_free(other);
	return ok;
}

// Keys that are alike to whoever changes case or form, cuts at a zero, or takes some
// character for a separator or a pattern.
bool check_names(bucket b)
{
	keys names = KEYS(
		KEY("name/"),
		KEY("name/a"), KEY("name/A"), KEY("name/a "), KEY("name/ a"), KEY("name/a/"), KEY("name//a"),
		KEY("name/*"), KEY("name/?"), KEY("name/[a]"), KEY("name/:"), KEY("name/.."), KEY("name/%2F"),
		KEY("name/a\0"), KEY("name/a\0b"), KEY("name/a\n"), KEY("name/a\r\n"), KEY("name/\x7f"),
		KEY("name/\xc3\xa9"), KEY("name/e\xcc\x81"),         // e with an accent: one character, and two
		KEY("name/\xc3\x9f"), KEY("name/ss"),                 // sharp s
		KEY("name/\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87"),         // Cyrillic
		KEY("name/\xe9\x8d\xb5"), KEY("name/\xe2\x80\xa8"),   // a CJK character; a line separator
		KEY("name/\xef\xbf\xbd"), KEY("name/\xef\xbb\xbf"),   // a replacement character; a byte order mark
		KEY("name/\xf0\x9f\x97\x9d"), KEY("name/\xf4\x8f\xbf\xbf")); // a key; the last code point
	for (u32 i = 0; i < names.len; i++)
		if (!done("set", bucket_set(b, names.ptr[i], names.ptr[i])))
			return false;
	for (u32 i = 0; i < names.len; i++)
		if (!value("get of the value that is the key", bucket_get(b, names.ptr[i]), names.ptr[i]))
			return false;
	maybe *want = allocate(names.len * sizeof *want);
	for (u32 i = 0; i < names.len; i++)
		want[i] = (maybe){true, names.ptr[i]};
	bool ok = many("get-many", batch_get_many(b, names), names, want)
	       && listed("keys", text(""), KEY("name/"), names)
	       && absent("get of the key \"" OWN "\" before it is set", bucket_get(b, text(OWN)))
	       && done("set of the key \"" OWN "\"", bucket_set(b, text(OWN), text("prefix")))
	       && value("get of the key \"" OWN "\"", bucket_get(b, text(OWN)), text("prefix"));
	release(want);
	return ok;
}

// 3,000 keys are three pages of manykv's, and a few more if there are other keys
// between them.
bool check_pages(bucket b)
{
	enum { N = 3000, BATCH = 1000 };
	static const char prefix[] = OWN "page/";
	enum { LEN = sizeof prefix - 1 + 4 };
	u8(*names)[LEN] = allocate(N * LEN);
	bytes *k = allocate(N * sizeof *k);
	pair *p = allocate(N * sizeof *p);
	for (u32 i = 0; i < N; i++) {
		__builtin_memcpy(names[i], prefix, sizeof prefix - 1);
		for (u32 at = LEN, rest = i; at-- > sizeof prefix - 1; rest /= 10)
			names[i][at] = '0' + rest % 10;
		k[i] = (bytes){names[i], LEN};
		p[i] = (pair){k[i], k[i]};
	}
	bool ok = true;
	for (u32 i = 0; ok && i < N; i += BATCH)
		ok = done("set-many of 1,000 keys", batch_set_many(b, (pairs){p + i, BATCH}));
	ok = ok && listed("3,000 keys", text(""), KEY("page/"), (keys){k, N})
	        && done("delete-many of 1,000 keys", batch_delete_many(b, (keys){k, BATCH}))
	        && listed("the 2,000 keys left", text(""), KEY("page/"), (keys){k + BATCH, N - BATCH})
	        && done("delete-many of 2,000 keys", batch_delete_many(b, (keys){k + BATCH, N - BATCH}))
	        && listed("keys after all are deleted", text(""), KEY("page/"), KEYS());
#ifdef DRAFT2
	cursor invented = {true, text("no cursor of yours")};
	ok = ok && refused("list-keys from a cursor that no page gave", bucket_list_keys(b, invented), OTHER);
#endif
	release(names);
	release(k);
	release(p);
	return ok;
}

bool check_limits(bucket b)
{
	bytes longest = long_key(4096), too_long = long_key(5000), too_large = noise(3, 9 << 20);
	bytes small = KEY("limit");
	bool ok = done("set of a key of 4,096 bytes", bucket_set(b, longest, text("1")))
	       && value("get of a key of 4,096 bytes", bucket_get(b, longest), text("1"))

	       && refused("set of a key of 5,000 bytes", bucket_set(b, too_long, text("v")), OTHER)
	       && refused("get of a key of 5,000 bytes", bucket_get(b, too_long), OTHER)
	       && refused("exists of a key of 5,000 bytes", bucket_exists(b, too_long), OTHER)
	       && refused("delete of a key of 5,000 bytes", bucket_delete(b, too_long), OTHER)
	       && refused("increment of a key of 5,000 bytes", atomics_increment(b, too_long, 1), OTHER)
	       && listed("long keys", text(""), KEY("long/"), KEYS(longest))

	       && done("set", bucket_set(b, small, text("before")))
	       && refused("set of 9 MiB", bucket_set(b, small, too_large), OTHER)
	       && value("get after a set of 9 MiB was refused", bucket_get(b, small), text("before"));
	bytes_free(longest);
	bytes_free(too_long);
	bytes_free(too_large);
	return ok;
}

static bool check_denied(bucket b, bucket read_only)
{
	bytes k = KEY("read-only/key"), n = KEY("read-only/number"), fresh = KEY("read-only/new");
	return refused("set", bucket_set(read_only, k, text("changed")), ACCESS_DENIED)
	    && refused("set of a new key", bucket_set(read_only, fresh, text("v")), ACCESS_DENIED)
	    && refused("delete", bucket_delete(read_only, k), ACCESS_DENIED)
	    && refused("delete of an absent key", bucket_delete(read_only, fresh), ACCESS_DENIED)
	    && refused("set-many", batch_set_many(read_only, PAIRS({k, text("changed")}, {fresh, text("v")})), ACCESS_DENIED)
	    && refused("delete-many", batch_delete_many(read_only, KEYS(k, n)), ACCESS_DENIED)
	    && refused("increment", atomics_increment(read_only, n, 1), ACCESS_DENIED)
	    && refused("increment of an absent key", atomics_increment(read_only, fresh, 1), ACCESS_DENIED)

	    && value("get after refused writes", bucket_get(b, k), text("v"))
	    && value("get after a refused increment", bucket_get(b, n), text("5"))
	    && absent("get of a new key after refused writes", bucket_get(b, fresh));
}

#ifdef DRAFT2
static bool check_swap_denied(bucket b, bucket read_only)
{
	bytes k = KEY("read-only/key");
	cas c;
	return made("new cas", cas_new(read_only, k), &c)
	    && value("current", cas_current(c), text("v"))
	    && swap_refused("swap", atomics_swap(c, text("changed")), ACCESS_DENIED)
	    && value("get after a refused swap", bucket_get(b, k), text("v"));
}
#endif

bool check_read_only(bucket b)
{
	bytes k = KEY("read-only/key"), n = KEY("read-only/number"), fresh = KEY("read-only/new");
	keys asked = KEYS(n, fresh, k);
	maybe want[] = {SOME("5"), NONE, SOME("v")};
	bucket read_only;
	if (!opened("open of \"readonly\"", store_open(text("readonly")), &read_only))
		return false;
	bool ok = done("set-many through \"\"", batch_set_many(b, PAIRS({k, text("v")}, {n, text("5")})))
	       && value("get", bucket_get(read_only, k), text("v"))
	       && absent("get of an absent key", bucket_get(read_only, fresh))
	       && exists("exists", bucket_exists(read_only, k), true)
	       && exists("exists of an absent key", bucket_exists(read_only, fresh), false)
	       && many("get-many", batch_get_many(read_only, asked), asked, want)
	       && listed("keys", text("readonly"), KEY("read-only/"), KEYS(k, n))
	       && check_denied(b, read_only);
#ifdef DRAFT2
	ok = ok && check_swap_denied(b, read_only);
#endif
	bucket_drop(read_only);
	return ok;
}

// Several handles of one bucket see the same keys, and outlive each other.
static bool check_some_handles(bucket b)
{
	bytes k = KEY("handle");
	bucket second, third, fourth, fifth;
	if (!(opened("open of a second handle", store_open(text("")), &second)
	      && opened("open of a third handle", store_open(text("readonly")), &third)
	      && opened("open of a fourth handle", store_open(text("")), &fourth)
	      && done("set through the second", bucket_set(second, k, text("1")))
	      && value("get through the first", bucket_get(b, k), text("1"))
	      && value("get through the third", bucket_get(third, k), text("1"))
	      && value("get through the fourth", bucket_get(fourth, k), text("1"))))
		return false;
	bucket_drop(second);
	if (!(done("set through the fourth when the second is gone", bucket_set(fourth, k, text("2")))
	      && value("get through the third when the second is gone", bucket_get(third, k), text("2"))
	      && opened("open of a fifth handle", store_open(text("readonly")), &fifth)
	      && done("set through the fourth when the fifth is for reading", bucket_set(fourth, k, text("3")))
	      && refused("set through the third", bucket_set(third, k, text("4")), ACCESS_DENIED)
	      && refused("set through the fifth", bucket_set(fifth, k, text("4")), ACCESS_DENIED)))
		return false;
	bucket_drop(third);
	bucket_drop(fourth);
	if (!(value("get through the fifth when others are gone", bucket_get(fifth, k), text("3"))
	      && value("get through the first", bucket_get(b, k), text("3"))))
		return false;
	bucket_drop(fifth);
	return true;
}

bool check_handles(bucket b)
{
	if (!check_some_handles(b))
		return false;
	bucket many[100];
	for (u32 i = 0; i < COUNT(many); i++)
		if (!opened("open of 100 handles", store_open(text("")), &many[i]))
			return false;
	for (u32 i = 0; i < COUNT(many); i++) {
		if (!value("get through 100 handles", bucket_get(many[i], KEY("handle")), text("3")))
			return false;
		bucket_drop(many[i]);
	}
	open_result r = {0};
	for (u32 i = 0; i < 10000 && !r.failed; i++) {
		r = store_open(text(""));
		if (!r.failed)
			bucket_drop(r.bucket);
	}
	return done("open, 10,000 times", (done_result){r.failed, r.error})
	    && value("get through the first handle", bucket_get(b, KEY("handle")), text("3"));
}
