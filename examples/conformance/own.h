// The keys that are this guest's own. There may be others in the bucket.

#ifndef OWN_H
#define OWN_H

#include "keyvalue.h"

#define OWN "conformance/"
#define KEY(literal) text(OWN literal)

// KEYS and PAIRS make lists: of keys, and of {key, value}.
#define COUNT(array) (sizeof(array) / sizeof *(array))
#define KEYS(...) ((keys){(bytes[]){__VA_ARGS__}, COUNT(((bytes[]){__VA_ARGS__}))})
#define PAIRS(...) ((pairs){(pair[]){__VA_ARGS__}, COUNT(((pair[]){__VA_ARGS__}))})

// What an export returns whose type is result<string, string>.
typedef struct { bool failed; bytes text; } text_result;

// next_page lists a page from a cursor, {0} at first, which it moves on. The caller
// frees the keys, and the cursor if it does not go on until there is none.
done_result next_page(bucket, cursor *, keys *);

// delete_own deletes all keys that begin with OWN.
done_result delete_own(bucket);

// add_error appends an error in WIT's words.
void add_error(buffer *, error);

#endif
