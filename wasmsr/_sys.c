/* System calls that Python lacks: their one file, apart from the core (see _sys.h). */
#define _GNU_SOURCE
#include "_sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#ifndef SYS_openat2
#define SYS_openat2 437 /* one number on every architecture; headers before Linux 5.6 lack it */
#endif
#endif

_Static_assert(sizeof(wsys_waited) == sizeof(struct pollfd) &&
                   offsetof(wsys_waited, events) == offsetof(struct pollfd, events) &&
                   offsetof(wsys_waited, revents) == offsetof(struct pollfd, revents),
               "wsys_waited is poll(2)'s structure");

static int answer(int result) { return result < 0 ? -errno : result; }

int wsys_open_beneath(int dirfd, const char *path, int flags) {
#ifdef __linux__
  /* struct open_how and its flags, from the manual: not every C library has them. */
  struct {
    uint64_t flags, mode, resolve;
  } how = {(unsigned)flags, 0, 0};
  enum { NO_MAGICLINKS = 0x02, NO_SYMLINKS = 0x04, BENEATH = 0x08 };
  how.resolve = BENEATH | NO_SYMLINKS | NO_MAGICLINKS;
  return answer((int)syscall(SYS_openat2, dirfd, path, &how, sizeof how));
#else
  (void)dirfd, (void)path, (void)flags;
  return -ENOSYS;
#endif
}

static struct timespec timespec_of(int set, int64_t seconds, int32_t ns) {
  struct timespec time = {0, UTIME_OMIT};
  if (set) {
    time.tv_sec = (time_t)seconds;
    time.tv_nsec = ns;
  }
  return time;
}

int wsys_set_times(int dirfd, const char *name, int which, int64_t atim, int32_t atim_ns,
                   int64_t mtim, int32_t mtim_ns) {
  struct timespec times[2] = {timespec_of(which & 1, atim, atim_ns),
                              timespec_of(which & 2, mtim, mtim_ns)};
  if (name == NULL) return answer(futimens(dirfd, times));
  return answer(utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW));
}

int wsys_wait(wsys_waited *waited, unsigned count, int64_t timeout) {
  struct pollfd *polled = (struct pollfd *)waited;
#ifdef __linux__
  struct timespec end = timespec_of(1, timeout / 1000000000, (int32_t)(timeout % 1000000000));
  return answer(ppoll(polled, count, timeout < 0 ? NULL : &end, NULL));
#else
  int64_t ms = timeout < 0 ? -1 : timeout / 1000000 + (timeout % 1000000 != 0);
  return answer(poll(polled, count, ms > INT_MAX ? INT_MAX : (int)ms));
#endif
}

int wsys_wait_one(int fd, int events, int wake) {
  wsys_waited waited[2] = {{fd, (short)events, 0}, {wake, POLLIN, 0}};
  int count = wsys_wait(waited, 2, -1);
  return count < 0 ? count : (int)(unsigned short)waited[0].revents;
}
