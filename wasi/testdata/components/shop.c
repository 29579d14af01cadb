#include "guest.h"

#define STORE "wasi:keyvalue/store@0.2.0-draft2"
IMPORT(STORE, "open") void open_bucket(u32 name, u32 bytes, u32 *result);
IMPORT(STORE, "[method]bucket.get") void get(u32 bucket, u32 key, u32 bytes, u32 *result);
IMPORT(STORE, "[resource-drop]bucket") void drop_bucket(u32 bucket);
IMPORT("$root", "log") void log_line(u32 line, u32 bytes);

static u32 area[4];

EXPORT("nothing") void nothing(void) {
	open_bucket(0, 0, area);
	get(area[1], 0, 0, area);
	drop_bucket(area[1]);
	log_line(0, 0);
}
EXPORT("say") u32 *say(u32 who, u32 bytes) { return area; }
EXPORT("named") u32 *named(u32 t, u32 t_bytes, u32 u, u32 u_bytes) { return area; }
EXPORT("used") u32 *used(u32 t, u32 bytes) { return area; }
EXPORT("failing") u32 *failing(void) { return area; }
EXPORT("plain") u32 plain(void) { return 0; }
EXPORT("only-ok") u32 *only_ok(void) { return area; }
EXPORT("only-error") u32 *only_error(void) { return area; }
EXPORT("mix") u32 *mix(u32 name, u32 bytes, u32 count, u32 mood, u32 size, u32 shape, u32 box) { return area; }
EXPORT("handles") u32 handles(u32 a, u32 b) { return b; }
EXPORT("numbers") u64 numbers(u32 a, u32 b, u32 c, u32 d, u32 e, u32 f, u32 g, u64 h, u64 i, float j, double k, u32 l) { return i; }
EXPORT("later") u32 *later(u32 name, u32 bytes) { return area; }
EXPORT("wasi:keyvalue/watcher@0.2.0-draft2#on-set") void on_set(u32 bucket, u32 key, u32 key_bytes, u32 value, u32 value_bytes) {}
