/* System calls that Python lacks: for WASI, memories and workers of nodes. No part of the core:
 * nothing here knows of a machine.
 *
 * Every function answers a number that is not negative, or a host errno negated; -ENOSYS where the
 * host has no such call. Python sees what is between the marks (_ffi_build.py);
 * wasi/syscalls.py, snapshot/memory/page_calls.py and node/workers/sandbox_calls.py give it types
 * and exceptions.
 */
#ifndef WSR_SYS_H
#define WSR_SYS_H
#include <stdint.h>

/* cffi: begin */

/* As poll(2)'s, whose constants Python's `select` has. */
typedef struct {
  int fd;
  short events;
  short revents;
} wsys_waited;

/* Opens what `path` names below the directory `dirfd`. The kernel sees to it that not one link is
 * passed and that ".." does not lead out (Linux, openat2(2)): -ELOOP and -EXDEV, or -EAGAIN if it
 * cannot tell because somebody renames directories meanwhile. */
int wsys_open_beneath(int dirfd, const char *path, int flags);

/* Sets the times, in seconds since 1970 and the rest in ns, of what `name` is in `dirfd`, never
 * through a link, or of `dirfd` itself where `name` is NULL. Bit 0 of `which`: the access time is
 * set; bit 1: the modification time; what is not set stays as it is. */
int wsys_set_times(int dirfd, const char *name, int which, int64_t atim, int32_t atim_ns,
                   int64_t mtim, int32_t mtim_ns);

/* Waits until one of `count` descriptors is ready or `timeout` ns (negative: for ever) are over, by
 * the nanosecond where the host can (ppoll(2)), else rounded up to milliseconds. Answers how many
 * are ready. */
int wsys_wait(wsys_waited *waited, unsigned count, int64_t timeout);

/* Waits for `events` of `fd`, or until `wake` can be read. Answers what is ready of `fd`, or 0. */
int wsys_wait_one(int fd, int events, int wake);

/* ---- pages of this process, 4 KiB each ---- */

enum { WSYS_PRIVATE_PAGES, WSYS_WRITTEN_PAGES };

/* Marks pages of the process with 1 in `flags` and leaves the other flags as they are; answers how
 * many (Linux 6.7, PAGEMAP_SCAN). `pagemap` is /proc/self/pagemap, opened by this process. How:
 * WSYS_PRIVATE_PAGES: the pages that are not those of the file that is mapped there, nor the
 * kernel's page of zeros; also such as are swapped out or under migration.
 * WSYS_WRITTEN_PAGES: of these, what was written since `wsys_watch_writes` or the last such call,
 * which begins anew for them; no write is lost between. */
int64_t wsys_scan_pages(int pagemap, uint64_t start, uint64_t pages, int how, uint8_t *flags);

/* Lets the kernel note which pages of a range are written, without a fault that anybody sees (Linux
 * 6.7, userfaultfd(2), UFFD_FEATURE_WP_ASYNC). Answers a descriptor; the kernel forgets when it is
 * closed. All pages that exist count as written until the first scan. */
int wsys_watch_writes(uint64_t start, uint64_t size);

typedef struct {
  uint64_t first, count; /* pages */
} wsys_run;

/* Writes runs of the pages at `data` to a file, each to its place from `offset` on; answers 0. */
int wsys_write_pages(int fd, uint64_t offset, const uint8_t *data, const wsys_run *runs,
                     uint64_t n);

/* ---- memory of this process ---- */

/* Lets all threads share `most` heaps of the C library (mallopt(3), M_ARENA_MAX). Answers 0, and
 * -ENOSYS where the C library has no such limit. */
int wsys_limit_heaps(int most);

/* ---- rights that this process gives up for good (Linux; _sandbox.c) ---- */

/* No program that it executes gets more rights (no_new_privs), and no other process of its user
 * reads its memory (not dumpable). Answers 0. */
int wsys_give_up_privileges(void);

/* Lets orphans of descendants become children of this process, which then waits for them. */
int wsys_adopt_orphans(void);

/* Allows the calling thread, and threads that it starts, the system calls of a list; others answer
 * ENOSYS, and calls of another architecture end the process (seccomp(2)). `listens`: sockets may be
 * opened too. Needs wsys_give_up_privileges. Answers 0. */
int wsys_forbid_calls(int listens);

/* Answers the version of Landlock that the kernel has, at least 1. */
int wsys_landlock_version(void);

/* Allows the calling thread, and threads that it starts, to open only what is below these open
 * folders (or is one of these files), and no connections; without `listens` no TCP ports either
 * (landlock(7); what an older version lacks stays allowed). Needs wsys_give_up_privileges. Answers
 * the version. */
int wsys_landlock(const int *readable, unsigned n_readable, const int *writable,
                  unsigned n_writable, int listens);

/* cffi: end */

#endif
