// Memory, and the little that a guest without a C library needs of strings.

#include "keyvalue.h"

// Blocks have sizes that are powers of two, and a free one waits in the list of its
// size. So memory grows to what is in use at once, rounded up, and no further.
typedef struct block {
	u32 power; // its size is 1 << power, these 8 bytes included
	u32 state;
	struct block *next; // of a free block; of one in use, this is where its bytes begin
} block;

enum {
	HEAD = offsetof(block, next),
	LEAST = 4,             // 16 bytes
	MOST = 30,             // 1 GiB
	IN_USE = 0x6b766b76,   // of `state`: not what a stray pointer finds before it
	FREE = 0x66726565,
	PAGE = 1 << 16,
};

static block *free_blocks[MOST + 1];
static u32 in_use, unknown;

u32 blocks_in_use(void) { return in_use; }
u32 blocks_unknown(void) { return unknown; }

// fresh takes bytes from the end of the memory, which grows if it must.
static block *fresh(u32 power)
{
	extern u8 __heap_base; // of the linker: the end of the static data
	static u64 end;
	if (end == 0)
		end = ((u32)&__heap_base + 7) & ~7u;
	u64 start = end, have = (u64)__builtin_wasm_memory_size(0) * PAGE;
	end += 1u << power;
	if (end > have && __builtin_wasm_memory_grow(0, (end - have + PAGE - 1) / PAGE) == (size_t)-1)
		__builtin_trap();
	return (block *)(u32)start;
}

void *allocate(u32 size)
{
	u32 power = LEAST;
	while (power <= MOST && (1u << power) - HEAD < size)
		power++;
	if (power > MOST)
		__builtin_trap();
	block *b = free_blocks[power];
	if (b)
		free_blocks[power] = b->next;
	else
		b = fresh(power);
	b->power = power;
	b->state = IN_USE;
	in_use++;
	return &b->next;
}

void release(const void *p)
{
	block *b = (block *)((u32)p - HEAD);
	if (b->state != IN_USE) { // the host has not allocated each string by itself, or we free one twice
		unknown++;
		return;
	}
	b->state = FREE;
	b->next = free_blocks[b->power];
	free_blocks[b->power] = b;
	in_use--;
}

// cabi_realloc is how the host gets the memory for what it returns.
EXPORT("cabi_realloc")
void *cabi_realloc(void *old, u32 old_size, u32 align, u32 size)
{
	if (align > 8)
		__builtin_trap();
	if (size == 0)
		return (void *)align; // any address will do
	void *p = allocate(size);
	if (old_size > 0) {
		__builtin_memcpy(p, old, old_size < size ? old_size : size);
		release(old);
	}
	return p;
}

// What is empty has no memory of its own.
static void list_free(const void *p, u32 len)
{
	if (len > 0)
		release(p);
}

void bytes_free(bytes b) { list_free(b.ptr, b.len); }

void maybe_free(maybe m)
{
	if (m.some)
		bytes_free(m.value);
}

void error_free(error e)
{
	if (e.kind == OTHER)
		bytes_free(e.text);
}

void found_free(found f)
{
	for (u32 i = 0; i < f.len; i++) {
		if (!f.ptr[i].some)
			continue;
		bytes_free(f.ptr[i].pair.key);
		bytes_free(f.ptr[i].pair.value);
	}
	list_free(f.ptr, f.len);
}

void keys_free(keys k)
{
	for (u32 i = 0; i < k.len; i++)
		bytes_free(k.ptr[i]);
	list_free(k.ptr, k.len);
}

void cursor_free(cursor c)
{
#ifdef DRAFT2
	if (c.some)
		bytes_free(c.value);
#else
	(void)c; // a number
#endif
}

bool bytes_begin(bytes b, bytes prefix)
{
	return b.len >= prefix.len && bytes_equal((bytes){b.ptr, prefix.len}, prefix);
}

// Backwards, since keys of one kind differ at their end.
bool bytes_equal(bytes a, bytes b)
{
	if (a.len != b.len)
		return false;
	for (u32 i = a.len; i-- > 0;)
		if (a.ptr[i] != b.ptr[i])
			return false;
	return true;
}

bool cursor_equal(cursor a, cursor b)
{
#ifdef DRAFT2
	return a.some == b.some && (!a.some || bytes_equal(a.value, b.value));
#else
	return a.some == b.some && (!a.some || a.value == b.value);
#endif
}

void add(buffer *b, bytes more)
{
	u32 len = b->bytes.len;
	if (b->room - len < more.len) {
		u32 room = 2 * (len + more.len);
		b->bytes.ptr = cabi_realloc((void *)b->bytes.ptr, b->room, 1, room);
		b->room = room;
	}
	__builtin_memcpy((u8 *)b->bytes.ptr + len, more.ptr, more.len);
	b->bytes.len += more.len;
}

void add_number(buffer *b, bool negative, u64 magnitude)
{
	u8 digits[21], *at = digits + sizeof digits;
	do
		*--at = '0' + magnitude % 10;
	while (magnitude /= 10);
	if (negative)
		*--at = '-';
	add(b, (bytes){at, digits + sizeof digits - at});
}
