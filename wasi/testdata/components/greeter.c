#include "guest.h"

static u32 answer[3]; // ok, pointer, length

EXPORT("greet") u32 *greet(u32 name, u32 bytes) {
	answer[1] = name;
	answer[2] = bytes;
	return answer;
}

EXPORT("cabi_post_greet") void free_answer(u32 *at) { top = 0; }
