// The guest's own keys, and two exports that need little more: clean and fail.

#include "own.h"

// delete_among deletes those of some keys that are ours.
static done_result delete_among(bucket b, keys k)
{
	enum { BATCH = 500 };
	bytes own[BATCH];
	u32 n = 0;
	for (u32 i = 0; i < k.len; i++) {
		if (bytes_begin(k.ptr[i], text(OWN)))
			own[n++] = k.ptr[i];
		if (n == BATCH || (n > 0 && i + 1 == k.len)) {
			done_result r = batch_delete_many(b, (keys){own, n});
			if (r.failed)
				return r;
			n = 0;
		}
	}
	return (done_result){0};
}

done_result next_page(bucket b, cursor *at, keys *k)
{
	list_result r = bucket_list_keys(b, *at);
	bool stuck = !r.failed && r.page.next.some && at->some && cursor_equal(r.page.next, *at);
	cursor_free(*at);
	*at = (cursor){0};
	if (r.failed)
		return (done_result){true, r.error};
	*k = r.page.keys;
	*at = r.page.next;
	if (!stuck)
		return (done_result){0};
	buffer why = {0};
	add(&why, text("list-keys gives the cursor that it was given"));
	return (done_result){true, {OTHER, why.bytes}};
}

// One pass through all pages is enough: to delete what a page has shown does not
// move what the next ones show.
done_result delete_own(bucket b)
{
	cursor at = {0};
	done_result r;
	do {
		keys page = {0};
		r = next_page(b, &at, &page);
		if (!r.failed)
			r = delete_among(b, page);
		keys_free(page);
	} while (!r.failed && at.some);
	cursor_free(at);
	return r;
}

// An export that returns nothing can only end the guest when something is wrong.
EXPORT("clean")
void clean(void)
{
	open_result r = store_open(text(""));
	if (r.failed || delete_own(r.bucket).failed)
		__builtin_trap();
	bucket_drop(r.bucket);
}

// An error of the guest's own. The text is static, so there is nothing to free after
// it was read, and no cabi_post.
EXPORT("fail")
text_result *fail(void)
{
	static text_result as_asked = {true, text("as asked")};
	open_result r = store_open(text(""));
	if (!r.failed)
		bucket_drop(r.bucket);
	return &as_asked;
}

void add_error(buffer *b, error e)
{
	switch ((error_kind)e.kind) {
	case NO_SUCH_STORE:
		add(b, text("no-such-store"));
		return;
	case ACCESS_DENIED:
		add(b, text("access-denied"));
		return;
	case OTHER:
		add(b, text("other: "));
		add(b, e.text);
		return;
	}
	add(b, text("an error of case "));
	add_number(b, false, e.kind);
}
