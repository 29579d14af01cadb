// wasi:keyvalue for freestanding C: copy keyvalue.h and keyvalue.c.
//
// These are the interfaces store, batch and atomics as the component model's
// canonical ABI gives them to a core module: of the package
// wasi:keyvalue@0.2.0-draft2 if DRAFT2 is defined, else of 0.2.0-draft. They differ
// in the types of a counter and of a cursor, and only draft2 has compare-and-swap.
//
// Layouts: a string and a list are an address and a length; an option, a result and
// a variant begin with a byte that says which case it is. C lays out the structs below
// just so; the assertions at the end hold it to that.
//
// Ownership: what you pass stays yours, except the cas that atomics_swap uses up.
// What a call returns is yours: free it with the function that is named after it. A
// result whose `failed` is set holds only an error, which error_free frees.

#ifndef KEYVALUE_H
#define KEYVALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

// Types.

typedef struct { const u8 *ptr; u32 len; } bytes;  // list<u8>; and string, which is UTF-8
typedef struct { bool some; bytes value; } maybe;  // option<list<u8>>
typedef struct { bytes key, value; } pair;         // tuple<string, list<u8>>
typedef struct { bool some; pair pair; } maybe_pair;

typedef struct { const bytes *ptr; u32 len; } keys;       // list<string>
typedef struct { const pair *ptr; u32 len; } pairs;       // list<tuple<string, list<u8>>>
typedef struct { const maybe_pair *ptr; u32 len; } found; // list<option<tuple<string, list<u8>>>>

typedef struct { u32 handle; } bucket; // bucket_drop gives it back

typedef enum { NO_SUCH_STORE, ACCESS_DENIED, OTHER } error_kind;
typedef struct { u8 kind; bytes text; } error; // only OTHER has a text

#ifdef DRAFT2
#define KEYVALUE_VERSION "0.2.0-draft2"
typedef s64 counter;
typedef struct { bool some; bytes value; } cursor;
#else
#define KEYVALUE_VERSION "0.2.0-draft"
typedef u64 counter;
typedef struct { bool some; u64 value; } cursor;
#endif

typedef struct { keys keys; cursor next; } page;

// result<type, error>
#define RESULT(type, name) struct { bool failed; union { type name; error error; }; }

typedef struct { bool failed; error error; } done_result; // result<_, error>
typedef RESULT(bucket, bucket) open_result;
typedef RESULT(maybe, value) get_result;
typedef RESULT(bool, yes) exists_result;
typedef RESULT(page, page) list_result;
typedef RESULT(found, found) many_result;
typedef RESULT(counter, sum) counter_result;

// Strings, and what owns memory.

// text makes bytes of a string literal, which nobody must free.
#define text(literal) ((bytes){(const u8 *)("" literal), sizeof(literal) - 1})

bool bytes_equal(bytes, bytes);
bool bytes_begin(bytes, bytes prefix);
bool cursor_equal(cursor, cursor);

void bytes_free(bytes);
void maybe_free(maybe);
void error_free(error);
void found_free(found);
void keys_free(keys);
void cursor_free(cursor);

// A buffer is a text in the making. It begins as {0}; its bytes are freed as others
// are.
typedef struct { bytes bytes; u32 room; } buffer;

void add(buffer *, bytes);
void add_number(buffer *, bool negative, u64 magnitude);

// Memory, of which the host takes some for each string and each list that it
// returns. It is never given back to the host, but used again.

void *allocate(u32 size); // aligned for any type; traps if there is none left
void release(const void *);

u32 blocks_in_use(void);
u32 blocks_unknown(void); // that were released, though nobody had allocated them

// What a module exports.
#define EXPORT(name) __attribute__((export_name(name)))

// The interface store.

#define IMPORT(interface, name)                                                     \
	__attribute__((import_module("wasi:keyvalue/" interface "@" KEYVALUE_VERSION), \
	               import_name(name)))

IMPORT("store", "open")
void import_open(const u8 *identifier, u32 len, open_result *);

static inline open_result store_open(bytes identifier)
{
	open_result r;
	import_open(identifier.ptr, identifier.len, &r);
	return r;
}

IMPORT("store", "[resource-drop]bucket")
void import_bucket_drop(u32 handle);

static inline void bucket_drop(bucket b) { import_bucket_drop(b.handle); }

IMPORT("store", "[method]bucket.get")
void import_get(u32 bucket, const u8 *key, u32 len, get_result *);

static inline get_result bucket_get(bucket b, bytes key)
{
	get_result r;
	import_get(b.handle, key.ptr, key.len, &r);
	return r;
}

IMPORT("store", "[method]bucket.set")
void import_set(u32 bucket, const u8 *key, u32 key_len, const u8 *value, u32 value_len, done_result *);

static inline done_result bucket_set(bucket b, bytes key, bytes value)
{
	done_result r;
	import_set(b.handle, key.ptr, key.len, value.ptr, value.len, &r);
	return r;
}

IMPORT("store", "[method]bucket.delete")
void import_delete(u32 bucket, const u8 *key, u32 len, done_result *);

static inline done_result bucket_delete(bucket b, bytes key)
{
	done_result r;
	import_delete(b.handle, key.ptr, key.len, &r);
	return r;
}

IMPORT("store", "[method]bucket.exists")
void import_exists(u32 bucket, const u8 *key, u32 len, exists_result *);

static inline exists_result bucket_exists(bucket b, bytes key)
{
	exists_result r;
	import_exists(b.handle, key.ptr, key.len, &r);
	return r;
}

#ifdef DRAFT2

IMPORT("store", "[method]bucket.list-keys")
void import_list_keys(u32 bucket, u32 some, const u8 *cursor, u32 len, list_result *);

static inline list_result bucket_list_keys(bucket b, cursor from)
{
	list_result r;
	import_list_keys(b.handle, from.some, from.value.ptr, from.value.len, &r);
	return r;
}

#else

IMPORT("store", "[method]bucket.list-keys")
void import_list_keys(u32 bucket, u32 some, u64 cursor, list_result *);

static inline list_result bucket_list_keys(bucket b, cursor from)
{
	list_result r;
	import_list_keys(b.handle, from.some, from.value, &r);
	return r;
}

#endif

// The interface batch.

IMPORT("batch", "get-many")
void import_get_many(u32 bucket, const bytes *, u32 len, many_result *);

static inline many_result batch_get_many(bucket b, keys k)
{
	many_result r;
	import_get_many(b.handle, k.ptr, k.len, &r);
	return r;
}

IMPORT("batch", "set-many")
void import_set_many(u32 bucket, const pair *, u32 len, done_result *);

static inline done_result batch_set_many(bucket b, pairs p)
{
	done_result r;
	import_set_many(b.handle, p.ptr, p.len, &r);
	return r;
}

IMPORT("batch", "delete-many")
void import_delete_many(u32 bucket, const bytes *, u32 len, done_result *);

static inline done_result batch_delete_many(bucket b, keys k)
{
	done_result r;
	import_delete_many(b.handle, k.ptr, k.len, &r);
	return r;
}

// The interface atomics.

IMPORT("atomics", "increment")
void import_increment(u32 bucket, const u8 *key, u32 len, counter delta, counter_result *);

static inline counter_result atomics_increment(bucket b, bytes key, counter delta)
{
	counter_result r;
	import_increment(b.handle, key.ptr, key.len, delta, &r);
	return r;
}

#ifdef DRAFT2

typedef struct { u32 handle; } cas; // cas_drop gives it back, atomics_swap uses it up
typedef RESULT(cas, cas) cas_result;

typedef enum { STORE_ERROR, CAS_FAILED } cas_error_kind;
typedef struct { u8 kind; union { error error; cas fresh; }; } cas_error;
typedef struct { bool failed; cas_error error; } swap_result; // result<_, cas-error>

IMPORT("atomics", "[static]cas.new")
void import_cas_new(u32 bucket, const u8 *key, u32 len, cas_result *);

static inline cas_result cas_new(bucket b, bytes key)
{
	cas_result r;
	import_cas_new(b.handle, key.ptr, key.len, &r);
	return r;
}

IMPORT("atomics", "[resource-drop]cas")
void import_cas_drop(u32 handle);

static inline void cas_drop(cas c) { import_cas_drop(c.handle); }

IMPORT("atomics", "[method]cas.current")
void import_cas_current(u32 cas, get_result *);

static inline get_result cas_current(cas c)
{
	get_result r;
	import_cas_current(c.handle, &r);
	return r;
}

IMPORT("atomics", "swap")
void import_swap(u32 cas, const u8 *value, u32 len, swap_result *);

static inline swap_result atomics_swap(cas c, bytes value)
{
	swap_result r;
	import_swap(c.handle, value.ptr, value.len, &r);
	return r;
}

#endif

// The layouts, in bytes. A payload stands at a multiple of its own alignment, which
// is why a result with a 64-bit number in it is another than one without, its error too.

#define LAYOUT(type, size, field, at) \
	_Static_assert(sizeof(type) == size && offsetof(type, field) == at, #type)

LAYOUT(bytes, 8, len, 4);
LAYOUT(maybe, 12, value, 4);
LAYOUT(pair, 16, value, 8);
LAYOUT(maybe_pair, 20, pair.value, 12);
LAYOUT(error, 12, text, 4);
LAYOUT(done_result, 16, error, 4);
LAYOUT(open_result, 16, bucket, 4);
LAYOUT(get_result, 16, value.value, 8);
LAYOUT(exists_result, 16, yes, 4);
LAYOUT(many_result, 16, found, 4);
LAYOUT(counter_result, 24, sum, 8);
LAYOUT(counter_result, 24, error, 8);
#ifdef DRAFT2
LAYOUT(list_result, 24, page.next, 12);
LAYOUT(list_result, 24, error, 4);
LAYOUT(cas_result, 16, cas, 4);
LAYOUT(swap_result, 20, error, 4);
LAYOUT(swap_result, 20, error.fresh, 8);
LAYOUT(swap_result, 20, error.error.text, 12);
#else
LAYOUT(list_result, 32, page.next, 16);
LAYOUT(list_result, 32, page.next.value, 24);
LAYOUT(list_result, 32, error, 8);
#endif

#endif
