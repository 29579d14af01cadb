// The checks, in the order in which they are made. Each gets the bucket "", open.

#ifndef CHECKS_H
#define CHECKS_H

#include "expect.h"

// check_store.c
bool check_opening(bucket);
bool check_one_key(bucket);
bool check_values(bucket);
bool check_names(bucket);
bool check_pages(bucket);
bool check_limits(bucket);
bool check_read_only(bucket);
bool check_handles(bucket);

// check_batch.c
bool check_order(bucket);
bool check_duplicates(bucket);
bool check_empty_batches(bucket);
bool check_delete_some(bucket);
bool check_large_batches(bucket);
bool check_batch_limits(bucket);

// check_atomics.c
bool check_counters(bucket);
bool check_not_numbers(bucket);
bool check_large_numbers(bucket);
#ifdef DRAFT2
bool check_swap(bucket);
bool check_lost_swap(bucket);
bool check_current(bucket);
bool check_swap_absent(bucket);
bool check_swap_limits(bucket);
#endif

#endif
