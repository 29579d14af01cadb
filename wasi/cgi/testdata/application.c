// A CGI program in freestanding C, for the tests of package cgi. What it does depends
// on PATH_INFO; `make guests` builds it.
//
//	/echo      200: the method, the query, HTTP_X_TEST and the body
//	/wrong     a status that is none
//	/silent    nothing at all
//	/headless  a head without an end
//	/endless   a head without an end that is larger than may be
//	/trap      traps before the head
//	/half      traps after half a body
//	/exit      exits with code 3 before the head, and says why on standard error
//	/loop      never ends
//	/large     a body of 1 MiB
//	/moved     a Location and no status
//	/hop       headers that are about the connection
//	anything else: 404
typedef unsigned u32;
typedef unsigned char u8;

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))
WASI("environ_sizes_get") u32 environ_sizes_get(u32 *count, u32 *bytes);
WASI("environ_get") u32 environ_get(char **environ, char *bytes);
WASI("fd_read") u32 fd_read(u32 fd, const void *vectors, u32 count, u32 *got);
WASI("fd_write") u32 fd_write(u32 fd, const void *vectors, u32 count, u32 *got);
WASI("proc_exit") _Noreturn void proc_exit(u32 code);

static char *variables[256];
static char bytes[64 << 10];
static u32 count;

static u32 length(const char *s) {
	u32 n = 0;
	while (s[n]) n++;
	return n;
}

static void write_bytes(u32 fd, const char *s, u32 n) {
	while (n) {
		struct { const char *at; u32 n; } vector = {s, n};
		u32 got;
		if (fd_write(fd, &vector, 1, &got)) proc_exit(9);
		s += got, n -= got;
	}
}

static void print(const char *s) { write_bytes(1, s, length(s)); }

// The value of a variable, or "" if there is none.
static const char *variable(const char *name) {
	u32 n = length(name);
	for (u32 i = 0; i < count; i++) {
		u32 at = 0;
		while (at < n && variables[i][at] == name[at]) at++;
		if (at == n && variables[i][n] == '=') return variables[i] + n + 1;
	}
	return "";
}

static int path_is(const char *want) {
	const char *path = variable("PATH_INFO");
	for (; *path && *path == *want; path++, want++) {}
	return *path == *want;
}

static void echo(void) {
	print("Content-Type: text/plain\r\nX-Guest: yes\r\n\r\n");
	print(variable("REQUEST_METHOD")), print(" "), print(variable("QUERY_STRING")), print(" "), print(variable("HTTP_X_TEST"));
	print(" "), print(variable("CONTENT_LENGTH")), print(" "), print(variable("HTTP_PROXY")), print("\n");
	static char buffer[4096];
	for (;;) {
		struct { char *at; u32 n; } vector = {buffer, sizeof buffer};
		u32 got;
		if (fd_read(0, &vector, 1, &got)) proc_exit(9);
		if (!got) return;
		write_bytes(1, buffer, got);
	}
}

static const char line[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";

__attribute__((export_name("_start"))) void start(void) {
	u32 size;
	if (environ_sizes_get(&count, &size) || count > 256 || size > sizeof bytes) proc_exit(9);
	if (environ_get(variables, bytes)) proc_exit(9);
	if (path_is("/echo")) {
		echo();
	} else if (path_is("/wrong")) {
		print("Status: fine\nContent-Type: text/plain\n\n");
	} else if (path_is("/silent")) {
	} else if (path_is("/headless")) {
		print("Content-Type: text/plain\n");
	} else if (path_is("/endless")) {
		for (int i = 0; i < 2048; i++) write_bytes(1, line, 64);
	} else if (path_is("/trap")) {
		__builtin_trap();
	} else if (path_is("/half")) {
		print("Content-Type: text/plain\nContent-Length: 100\n\nhalf of it");
		__builtin_trap();
	} else if (path_is("/exit")) {
		write_bytes(2, "no luck\n", 8);
		proc_exit(3);
	} else if (path_is("/loop")) {
		for (volatile u32 i = 0;; i++) {}
	} else if (path_is("/large")) {
		print("Content-Type: text/plain\n\n");
		for (int i = 0; i < 16384; i++) write_bytes(1, line, 64);
	} else if (path_is("/moved")) {
		print("Location: /elsewhere\n\n");
	} else if (path_is("/hop")) {
		print("Content-Type: text/plain\nConnection: close\nTransfer-Encoding: chunked\nX-Kept: yes\n\nok");
	} else {
		print("Status: 404 Not Found\nContent-Type: text/plain\n\nno such page\n");
	}
	proc_exit(0);
}
