#include "checks.h"

bool check_order(bucket b)
{
	bytes a = KEY("order/a"), c = KEY("order/c"), z = KEY("order/z"), empty = KEY("order/empty"), no = KEY("order/no");
	keys forth = KEYS(a, c, z), mixed = KEYS(z, no, a, KEY("order/neither"), empty, c), alone = KEYS(no);
	maybe want_forth[] = {SOME("1"), SOME("3"), SOME("26")};
	maybe want_mixed[] = {SOME("26"), NONE, SOME("1"), NONE, SOME(""), SOME("3")};
	maybe want_alone[] = {NONE};
	return done("set-many", batch_set_many(b, PAIRS({z, text("26")}, {a, text("1")}, {empty, text("")}, {c, text("3")})))
	    && many("get-many", batch_get_many(b, forth), forth, want_forth)
	    && many("get-many of another order, with absent keys and an empty value", batch_get_many(b, mixed), mixed, want_mixed)
	    && many("get-many of one absent key", batch_get_many(b, alone), alone, want_alone)
	    && value("get of what set-many set", bucket_get(b, c), text("3"))
	    && done("set of what set-many set", bucket_set(b, c, text("5")))
	    && done("set-many over a key that is there", batch_set_many(b, PAIRS({a, text("7")})))
	    && many("get-many of keys set since", batch_get_many(b, forth), forth, (maybe[]){SOME("7"), SOME("5"), SOME("26")})
	    && listed("keys", text(""), KEY("order/"), KEYS(a, c, z, empty));
}

bool check_duplicates(bucket b)
{
	bytes a = KEY("twice/a"), c = KEY("twice/c"), no = KEY("twice/no");
	keys asked = KEYS(a, no, c, a, a, no, c);
	maybe want[] = {SOME("last"), NONE, SOME("c"), SOME("last"), SOME("last"), NONE, SOME("c")};
	maybe gone[] = {NONE, NONE, NONE, NONE, NONE, NONE, NONE};
	return done("set-many of a key three times", batch_set_many(b, PAIRS(
	           {a, text("first")}, {a, text("second, and longer")}, {c, text("c")}, {a, text("last")})))
	    && value("get of a key set three times", bucket_get(b, a), text("last"))
	    && many("get-many of keys more than once", batch_get_many(b, asked), asked, want)
	    && listed("keys", text(""), KEY("twice/"), KEYS(a, c))
	    && done("delete-many of keys more than once", batch_delete_many(b, asked))
	    && many("get-many of deleted keys", batch_get_many(b, asked), asked, gone);
}

bool check_empty_batches(bucket b)
{
	bytes k = KEY("empty-batch");
	keys none = {0};
	return done("set", bucket_set(b, k, text("v")))
	    && many("get-many of nothing", batch_get_many(b, none), none, 0)
	    && done("set-many of nothing", batch_set_many(b, (pairs){0}))
	    && done("delete-many of nothing", batch_delete_many(b, none))
	    && value("get afterwards", bucket_get(b, k), text("v"));
}

bool check_delete_some(bucket b)
{
	bytes a = KEY("some/a1"), c = KEY("some/b1"), d = KEY("some/c1");
	keys asked = KEYS(a, c, d);
	maybe want[] = {NONE, SOME("v1"), NONE};
	return done("set-many", batch_set_many(b, PAIRS({a, text("v1")}, {c, text("v1")}, {d, text("v1")})))
	    && done("delete-many with a key that is not there", batch_delete_many(b, KEYS(a, KEY("some/no"), d)))
	    && many("get-many", batch_get_many(b, asked), asked, want)
	    && listed("keys", text(""), KEY("some/"), KEYS(c));
}

bool check_large_batches(bucket b)
{
	bytes large = noise(4, 3 << 20), other = noise(5, (3 << 20) + 1);
	bytes x = KEY("large/x"), y = KEY("large/y"), small = KEY("large/small"), empty = KEY("large/empty");
	keys asked = KEYS(small, y, empty, x, KEY("large/no"), y);
	maybe want[] = {SOME("little"), {true, other}, SOME(""), {true, large}, NONE, {true, other}};
	bool ok = done("set-many of 6 MiB", batch_set_many(b, PAIRS(
	              {x, large}, {small, text("little")}, {y, other}, {empty, text("")})))
	       && many("get-many of 9 MiB", batch_get_many(b, asked), asked, want);

	// Ten times 7 MiB: the answer is over what a host can be asked for at once.
	bytes huge = noise(6, 7 << 20);
	ok = ok && done("set of 7 MiB", bucket_set(b, x, huge))
	        && value("get of 7 MiB", bucket_get(b, x), huge)
	        && refused("get-many of 70 MiB", batch_get_many(b, KEYS(x, x, x, x, x, x, x, x, x, x)), OTHER)
	        && done("delete-many", batch_delete_many(b, KEYS(x, y, small, empty)));
	bytes_free(large);
	bytes_free(other);
	bytes_free(huge);
	return ok;
}

// What a batch is refused for is found before anything is written.
bool check_batch_limits(bucket b)
{
	bytes k = KEY("batch-limit/key"), fresh = KEY("batch-limit/new");
	bytes too_long = long_key(5000), too_large = noise(7, 9 << 20);
	keys asked = KEYS(k, too_long);
	bool ok = done("set", bucket_set(b, k, text("v")))
	       && refused("set-many with a key of 5,000 bytes", batch_set_many(b, PAIRS(
	              {k, text("changed")}, {fresh, text("v")}, {too_long, text("v")})), OTHER)
	       && refused("set-many with a value of 9 MiB", batch_set_many(b, PAIRS(
	              {k, text("changed")}, {fresh, text("v")}, {KEY("batch-limit/large"), too_large})), OTHER)
	       && refused("get-many with a key of 5,000 bytes", batch_get_many(b, asked), OTHER)
	       && refused("delete-many with a key of 5,000 bytes", batch_delete_many(b, asked), OTHER)
	       && value("get after refused batches", bucket_get(b, k), text("v"))
	       && listed("keys after refused batches", text(""), KEY("batch-limit/"), KEYS(k));
	bytes_free(too_long);
	bytes_free(too_large);
	return ok;
}
