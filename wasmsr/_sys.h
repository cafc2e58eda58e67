/* System calls that Python lacks, for WASI. No part of the core: nothing here knows of a machine.
 *
 * Every function answers a number that is not negative, or a host errno negated; -ENOSYS where the
 * host has no such call. Python sees what is between the marks (_ffi_build.py);
 * wasi/syscalls.py gives it types and exceptions.
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

/* cffi: end */

#endif
