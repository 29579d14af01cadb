// Expectations: each looks at the answer of one call, frees it, and says whether it
// is as wanted. So a check is a chain of calls and expectations with && between
// them, which ends at the first that is not.

#ifndef EXPECT_H
#define EXPECT_H

#include "own.h"

// A report is what has become of the expectations so far.
typedef struct {
	const char *check; // the one that is being made
	u32 met;
	buffer failure; // of the first that was not, in words
} report;

extern report so_far;

// A result without a value, of set, delete, set-many and delete-many.
bool done(const char *what, done_result);

// The value of a key: of bucket.get or cas.current.
bool value(const char *what, get_result, bytes want);
bool absent(const char *what, get_result);

bool exists(const char *what, exists_result, bool want);

// The answer to get-many: element i is of the key asked for in place i.
#define SOME(literal) {true, text(literal)}
#define NONE {false}
bool many(const char *what, many_result, keys asked, const maybe want[]);

// All the keys with a prefix, in any order, each in one page.
bool listed(const char *what, bytes identifier, bytes prefix, keys want);

bool sum(const char *what, counter_result, counter want);

// An error: that kind, with a text if it is OTHER. For any result but swap's.
#define refused(what, result, kind)                        \
	({                                                 \
		__auto_type r_ = (result);                 \
		refused_with(what, r_.failed, r_.error, kind); \
	})
bool refused_with(const char *what, bool failed, error, error_kind want);

// A bucket or a cas, which is put where the caller wants it.
bool opened(const char *what, open_result, bucket *);

// A count of the guest's own.
bool number(const char *what, u32 got, u32 want);

#ifdef DRAFT2
bool made(const char *what, cas_result, cas *);
bool swapped(const char *what, swap_result);
bool outdated(const char *what, swap_result, cas *fresh); // the case cas-failed
bool swap_refused(const char *what, swap_result, error_kind want);
#endif

// noise is bytes of no pattern, others for another seed; the caller frees them.
bytes noise(u32 seed, u32 len);

// long_key is a key of our own that is so long; the caller frees it.
bytes long_key(u32 len);

#endif
