// run: all checks.

#include "checks.h"

static bool check_clean(bucket b)
{
	return done("deleting what an earlier run has left", delete_own(b))
	    && listed("its keys afterwards", text(""), text(OWN), KEYS());
}

static const struct {
	const char *name;
	bool (*check)(bucket);
} checks[] = {
	{"clean", check_clean},
	{"opening", check_opening},
	{"one key", check_one_key},
	{"order of a batch", check_order},
	{"duplicates in a batch", check_duplicates},
	{"empty batches", check_empty_batches},
	{"deleting some", check_delete_some},
	{"values", check_values},
	{"names of keys", check_names},
	{"large batches", check_large_batches},
	{"pages", check_pages},
	{"limits", check_limits},
	{"limits of batches", check_batch_limits},
	{"counters", check_counters},
	{"what is no number", check_not_numbers},
	{"large numbers", check_large_numbers},
#ifdef DRAFT2
	{"swap", check_swap},
	{"lost swap", check_lost_swap},
	{"current", check_current},
	{"swap of an absent key", check_swap_absent},
	{"limits of swap", check_swap_limits},
#endif
	{"reading only", check_read_only},
	{"handles", check_handles},
	{"clean", check_clean},
};

static bool all(void)
{
	u32 before = blocks_in_use();
	bucket b;
	so_far.check = "opening";
	if (!opened("open of \"\"", store_open(text("")), &b))
		return false;
	bool ok = true;
	for (u32 i = 0; ok && i < COUNT(checks); i++) {
		so_far.check = checks[i].name;
		ok = checks[i].check(b);
	}
	bucket_drop(b);
	so_far.check = "memory";
	return ok && number("strings or lists that were not allocated by themselves", blocks_unknown(), 0)
	    && number("blocks that nobody has freed", blocks_in_use() - before, 0);
}

EXPORT("run")
text_result *run(void)
{
	static text_result r;
	so_far = (report){0};
	if (all()) {
		buffer words = {0};
		add_number(&words, false, so_far.met);
		add(&words, text(" checks passed"));
		r = (text_result){false, words.bytes};
	} else {
		r = (text_result){true, so_far.failure.bytes};
	}
	return &r;
}

EXPORT("cabi_post_run")
void run_post(text_result *returned)
{
	bytes_free(returned->text);
}
