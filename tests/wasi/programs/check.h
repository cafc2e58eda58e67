/* What the programs of this folder check themselves with. A program that ends with exit code 0 has
 * found everything as it should be; otherwise it says on standard error what was not.
 *
 * They call preview 1 directly (wasi/api.h), so that nothing of a C library stands between. */
#ifndef CHECK_H
#define CHECK_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <wasi/api.h>

enum { ROOT = 3, NONE = 77 }; /* the one preopened directory; a descriptor that is not open */

static void say(const char *text) {
  __wasi_ciovec_t part = {(const uint8_t *)text, strlen(text)};
  __wasi_size_t written;
  (void)!__wasi_fd_write(2, &part, 1, &written);
}

static void say_number(uint64_t number) {
  char digits[21], *at = digits + 20;
  *at = 0;
  do *--at = (char)('0' + number % 10);
  while (number /= 10);
  say(at);
}

static void check(int fine, unsigned line, const char *text, unsigned errno_) {
  if (fine) return;
  say("line ");
  say_number(line);
  say(": ");
  say(text);
  say(", errno ");
  say_number(errno_);
  say("\n");
  __wasi_proc_exit(1);
}

/* CHECK: it holds. OK: the call succeeds. FAILS: it answers __WASI_ERRNO_name. */
#define CHECK(condition) check((condition) != 0, __LINE__, #condition, 0)
#define OK(call) FAILS(SUCCESS, call)
#define FAILS(name, call)                                       \
  do {                                                          \
    __wasi_errno_t answer_ = (call);                            \
    check(answer_ == __WASI_ERRNO_##name, __LINE__, #call, answer_); \
  } while (0)

static inline __wasi_errno_t write_text(__wasi_fd_t fd, const char *text) {
  __wasi_ciovec_t part = {(const uint8_t *)text, strlen(text)};
  __wasi_size_t written = 0;
  __wasi_errno_t answer = __wasi_fd_write(fd, &part, 1, &written);
  return answer || written == part.buf_len ? answer : __WASI_ERRNO_IO;
}

/* Reads at most `size` bytes; -1 for any error. */
static inline int read_some(__wasi_fd_t fd, void *into, size_t size) {
  __wasi_iovec_t part = {into, size};
  __wasi_size_t got = 0;
  return __wasi_fd_read(fd, &part, 1, &got) ? -1 : (int)got;
}

static const __wasi_rights_t ALL_RIGHTS = ((__wasi_rights_t)1 << 30) - 1;

/* Opens below ROOT with all rights; a directory that is asked for cannot be written. */
static inline __wasi_errno_t open_at(const char *path, __wasi_oflags_t how, __wasi_fdflags_t flags,
                                     __wasi_fd_t *fd) {
  __wasi_rights_t rights = ALL_RIGHTS;
  if (how == __WASI_OFLAGS_DIRECTORY) rights &= ~__WASI_RIGHTS_FD_WRITE;
  return __wasi_path_open(ROOT, __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, path, how, rights, ALL_RIGHTS,
                          flags, fd);
}

static inline __wasi_fd_t opened(const char *path, __wasi_oflags_t how) {
  __wasi_fd_t fd = 0;
  OK(open_at(path, how, 0, &fd));
  return fd;
}

static inline void make_file(const char *path, const char *content) {
  __wasi_fd_t fd = opened(path, __WASI_OFLAGS_CREAT | __WASI_OFLAGS_TRUNC);
  OK(write_text(fd, content));
  OK(__wasi_fd_close(fd));
}

static inline uint64_t size_of(const char *path) {
  __wasi_filestat_t stat;
  OK(__wasi_path_filestat_get(ROOT, 0, path, &stat));
  return stat.size;
}

static inline int exists(const char *path) {
  __wasi_filestat_t stat;
  return __wasi_path_filestat_get(ROOT, 0, path, &stat) == 0;
}
#endif
