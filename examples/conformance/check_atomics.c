#include "checks.h"

bool check_counters(bucket b)
{
	bytes set = KEY("counter/set"), fresh = KEY("counter/new"), zero = KEY("counter/zero");
	keys asked = KEYS(fresh, zero, set);
	maybe want[] = {SOME("15"), SOME("0"), SOME("6")};
	return done("set", bucket_set(b, set, text("5")))
	    && sum("increment of \"5\" by 1", atomics_increment(b, set, 1), 6)
	    && value("get of 5 + 1", bucket_get(b, set), text("6"))
	    && sum("increment of an absent key by 10", atomics_increment(b, fresh, 10), 10)
	    && value("get of 10", bucket_get(b, fresh), text("10"))
	    && sum("increment of 10 by 5", atomics_increment(b, fresh, 5), 15)
	    && sum("increment by 0", atomics_increment(b, fresh, 0), 15)
	    && sum("increment of an absent key by 0", atomics_increment(b, zero, 0), 0)
	    && many("get-many", batch_get_many(b, asked), asked, want)
	    && listed("keys", text(""), KEY("counter/"), asked)
	    && done("delete", bucket_delete(b, fresh))
	    && sum("increment of a deleted key", atomics_increment(b, fresh, 2), 2);
}

bool check_not_numbers(bucket b)
{
	bytes k = KEY("not-a-number");
	bytes values[] = {text("five"), text(""), text(" 1"), text("1 "), text("1.5"), text("0x10"), text("1\0"),
	                  text("9223372036854775808"), text("100000000000000000000"), text("\x05\0\0\0\0\0\0\0")};
	for (u32 i = 0; i < COUNT(values); i++)
		if (!done("set", bucket_set(b, k, values[i])) ||
		    !refused("increment of a value that is no number", atomics_increment(b, k, 1), OTHER) ||
		    !value("get after a refused increment", bucket_get(b, k), values[i]))
			return false;
	return true;
}

#define MOST 9223372036854775807

// A store's numbers have a sign in both drafts, since guests of both may count in one
// key.
bool check_large_numbers(bucket b)
{
	bytes k = KEY("large-number"), other = KEY("large-number/other");
	bool ok = sum("increment of an absent key by 2^53", atomics_increment(b, other, 9007199254740992), 9007199254740992)
	       && sum("increment of 2^53 by 1", atomics_increment(b, other, 1), 9007199254740993)
	       && value("get of 2^53 + 1", bucket_get(b, other), text("9007199254740993"))
	       && sum("increment of an absent key by 2^63 - 1", atomics_increment(b, k, MOST), MOST)
	       && value("get of 2^63 - 1", bucket_get(b, k), text("9223372036854775807"))
	       && refused("increment of 2^63 - 1 by 1", atomics_increment(b, k, 1), OTHER)
	       && refused("increment of 2^63 - 1 by itself", atomics_increment(b, k, MOST), OTHER)
	       && value("get after an overflow", bucket_get(b, k), text("9223372036854775807"));
#ifdef DRAFT2
	return ok
	    && sum("increment of 2^63 - 1 by its opposite", atomics_increment(b, k, -MOST), 0)
	    && sum("increment of 0 by -3", atomics_increment(b, k, -3), -3)
	    && value("get of -3", bucket_get(b, k), text("-3"))
	    && sum("increment of -3 by 1", atomics_increment(b, k, 1), -2)
	    && sum("increment of -2 by 5", atomics_increment(b, k, 5), 3)
	    && done("delete", bucket_delete(b, k))
	    && sum("increment of an absent key by -2^63", atomics_increment(b, k, -MOST - 1), -MOST - 1)
	    && value("get of -2^63", bucket_get(b, k), text("-9223372036854775808"))
	    && refused("increment of -2^63 by -1", atomics_increment(b, k, -1), OTHER)
	    && value("get after an overflow", bucket_get(b, k), text("-9223372036854775808"))
	    && sum("increment of -2^63 by 2^63 - 1", atomics_increment(b, k, MOST), -1);
#else
	bytes absent_key = KEY("large-number/absent");
	return ok
	    && refused("increment of 2^63 - 1 by 2^64 - 1", atomics_increment(b, k, -1ull), OTHER)
	    && value("get after an overflow", bucket_get(b, k), text("9223372036854775807"))
	    && refused("increment of an absent key by 2^63", atomics_increment(b, absent_key, 1ull << 63), OTHER)
	    && absent("get of an absent key after an overflow", bucket_get(b, absent_key));
#endif
}

#ifdef DRAFT2

bool check_swap(bucket b)
{
	bytes k = KEY("swap/key"), large = noise(8, 3 << 20);
	cas c, unused;
	bool ok = done("set", bucket_set(b, k, text("wow")))
	       && made("new", cas_new(b, k), &c)
	       && value("current", cas_current(c), text("wow"))
	       && value("current once more", cas_current(c), text("wow"))
	       && swapped("swap", atomics_swap(c, text("swapped")))
	       && value("get after swap", bucket_get(b, k), text("swapped"))

	       && made("new after swap", cas_new(b, k), &unused)
	       && made("new without current", cas_new(b, k), &c)
	       && swapped("swap without current", atomics_swap(c, large))
	       && value("get of 3 MiB after swap", bucket_get(b, k), large);
	if (!ok)
		return false;
	cas_drop(unused);
	ok = value("get after a cas was dropped", bucket_get(b, k), large)
	  && made("new of 3 MiB", cas_new(b, k), &c)
	  && value("current of 3 MiB", cas_current(c), large)
	  && swapped("swap of 3 MiB for nothing", atomics_swap(c, text("")))
	  && made("new of an empty value", cas_new(b, k), &c)
	  && value("current of an empty value", cas_current(c), text(""))
	  && swapped("swap of an empty value", atomics_swap(c, text("end")))
	  && value("get after swap of an empty value", bucket_get(b, k), text("end"))
	  && listed("keys", text(""), KEY("swap/"), KEYS(k));
	bytes_free(large);
	return ok;
}

// Whoever else has written the key, and whatever: the swap is lost, and the handle
// that comes back is of what is there.
bool check_lost_swap(bucket b)
{
	bytes k = KEY("lost-swap/key");
	cas c, fresh, other;
	return done("set", bucket_set(b, k, text("first")))
	    && made("new", cas_new(b, k), &c)
	    && done("set by another", bucket_set(b, k, text("foreign")))
	    && outdated("swap after a set", atomics_swap(c, text("mine")), &fresh)
	    && value("get after a lost swap", bucket_get(b, k), text("foreign"))
	    && value("current of the fresh cas", cas_current(fresh), text("foreign"))
	    && swapped("swap of the fresh cas", atomics_swap(fresh, text("mine")))
	    && value("get after the second attempt", bucket_get(b, k), text("mine"))

	    && made("new", cas_new(b, k), &c)
	    && done("set-many of the same value", batch_set_many(b, PAIRS({k, text("mine")})))
	    && outdated("swap after a set of the same value", atomics_swap(c, text("lost")), &fresh)
	    && done("set between the attempts", bucket_set(b, k, text("again")))
	    && outdated("swap of a cas that is outdated again", atomics_swap(fresh, text("lost")), &fresh)
	    && value("current of the second fresh cas", cas_current(fresh), text("again"))
	    && swapped("swap at the third attempt", atomics_swap(fresh, text("5")))

	    && made("new", cas_new(b, k), &c)
	    && sum("increment by another", atomics_increment(b, k, 1), 6)
	    && outdated("swap after an increment", atomics_swap(c, text("lost")), &fresh)
	    && value("current after an increment", cas_current(fresh), text("6"))
	    && (cas_drop(fresh), true)

	    && made("new of one", cas_new(b, k), &c)
	    && made("new of another", cas_new(b, k), &other)
	    && swapped("swap of the other", atomics_swap(other, text("other")))
	    && outdated("swap of the one", atomics_swap(c, text("lost")), &fresh)
	    && (cas_drop(fresh), true)
	    && value("get after two swaps", bucket_get(b, k), text("other"))

	    && made("new", cas_new(b, k), &c)
	    && done("delete by another", bucket_delete(b, k))
	    && outdated("swap after a delete", atomics_swap(c, text("lost")), &fresh)
	    && absent("get after a lost swap", bucket_get(b, k))
	    && absent("current after a delete", cas_current(fresh))
	    && swapped("swap of a deleted key", atomics_swap(fresh, text("new")))
	    && value("get after a swap of a deleted key", bucket_get(b, k), text("new"));
}

// What current says is what the swap replaces: be it the value of when the cas was
// made, or a later one.
bool check_current(bucket b)
{
	bytes k = KEY("current/key");
	cas c, fresh;
	if (!(done("set", bucket_set(b, k, text("first")))
	      && made("new", cas_new(b, k), &c)
	      && done("set by another", bucket_set(b, k, text("foreign")))))
		return false;
	get_result r = cas_current(c);
	if (!r.failed && r.value.some && bytes_equal(r.value.value, text("foreign")))
		return value("current", r, text("foreign"))
		    && swapped("swap after current said what is there", atomics_swap(c, text("mine")));
	return value("current", r, text("first"))
	    && outdated("swap after current said what was there", atomics_swap(c, text("mine")), &fresh)
	    && (cas_drop(fresh), true);
}

bool check_swap_absent(bucket b)
{
	bytes k = KEY("swap-absent/key");
	cas c, fresh;
	return made("new", cas_new(b, k), &c)
	    && absent("current", cas_current(c))
	    && exists("exists after new", bucket_exists(b, k), false)
	    && swapped("swap", atomics_swap(c, text("created")))
	    && value("get after swap", bucket_get(b, k), text("created"))
	    && done("delete", bucket_delete(b, k))

	    && made("new", cas_new(b, k), &c)
	    && done("set by another", bucket_set(b, k, text("")))
	    && outdated("swap after an empty set", atomics_swap(c, text("lost")), &fresh)
	    && value("current of the fresh cas", cas_current(fresh), text(""))
	    && swapped("swap of the fresh cas", atomics_swap(fresh, text("second")))
	    && value("get after the second attempt", bucket_get(b, k), text("second"));
}

bool check_swap_limits(bucket b)
{
	bytes k = KEY("swap-limit"), too_long = long_key(5000), too_large = noise(9, 9 << 20);
	cas c;
	bool ok = done("set", bucket_set(b, k, text("before")))
	       && refused("new of a key of 5,000 bytes", cas_new(b, too_long), OTHER)
	       && made("new", cas_new(b, k), &c)
	       && swap_refused("swap for 9 MiB", atomics_swap(c, too_large), OTHER)
	       && value("get after a refused swap", bucket_get(b, k), text("before"));
	bytes_free(too_long);
	bytes_free(too_large);
	if (!ok)
		return false;
	cas_result r = {0};
	for (u32 i = 0; i < 5000 && !r.failed; i++) {
		r = cas_new(b, k);
		if (!r.failed)
			cas_drop(r.cas);
	}
	return done("new, 5,000 times", (done_result){r.failed, r.error});
}

#endif
