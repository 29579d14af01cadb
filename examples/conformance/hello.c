// hello: three keys in one call, and back with one. This is what to read first.

#include "own.h"

static void greet(bucket, buffer *words);

// A string is returned by its address. When the host has read it, it calls the
// function's cabi_post, where the guest frees what it likes.
static buffer words;

EXPORT("hello")
bytes *hello(void)
{
	words = (buffer){0};
	open_result r = store_open(text("")); // the bucket that the host gives by default
	if (r.failed) {
		add_error(&words, r.error);
		error_free(r.error);
	} else {
		greet(r.bucket, &words);
		bucket_drop(r.bucket);
	}
	return &words.bytes;
}

EXPORT("cabi_post_hello")
void hello_post(bytes *returned)
{
	bytes_free(*returned);
}

static void greet(bucket b, buffer *words)
{
	done_result set = batch_set_many(b, PAIRS(
		{KEY("hello/a"), text("one")},
		{KEY("hello/b"), text("two")},
		{KEY("hello/c"), text("three")}));
	if (set.failed) {
		add_error(words, set.error);
		error_free(set.error);
		return;
	}

	keys asked = KEYS(KEY("hello/c"), KEY("hello/nothing"), KEY("hello/a"), KEY("hello/b"));
	many_result got = batch_get_many(b, asked);
	if (got.failed) {
		add_error(words, got.error);
		error_free(got.error);
		return;
	}
	for (u32 i = 0; i < got.found.len && i < asked.len; i++) {
		maybe_pair p = got.found.ptr[i]; // what was found of key i, if anything
		add(words, asked.ptr[i]);
		add(words, p.some ? text(" = ") : text(" is not there"));
		if (p.some)
			add(words, p.pair.value);
		add(words, text("\n"));
	}
	found_free(got.found);
}
