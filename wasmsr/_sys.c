/* System calls that Python lacks: their one file, apart from the core (see _sys.h). */
#define _GNU_SOURCE
#include "_sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/ioctl.h>
#include <sys/syscall.h>
#ifndef SYS_openat2
#define SYS_openat2 437 /* one number on every architecture; headers before Linux 5.6 lack it */
#endif
/* From Linux 6.7's manual, because not every host that builds this has its headers:
 * ioctl_userfaultfd(2) and PAGEMAP_SCAN(2const). */
struct scan_arguments {
  uint64_t size, flags, start, end, walk_end, regions, room, max_pages;
  uint64_t inverted, all_of, any_of, returned;
};
struct scanned_region {
  uint64_t start, end, categories;
};
struct watch_features {
  uint64_t version, features, calls;
};
struct watched_range {
  uint64_t start, size, mode, calls;
};
#define SCAN _IOWR('f', 16, struct scan_arguments)
#define WATCH_FEATURES _IOWR(0xaa, 0x3f, struct watch_features)
#define WATCH_RANGE _IOWR(0xaa, 0x00, struct watched_range)
#endif

_Static_assert(sizeof(wsys_waited) == sizeof(struct pollfd) &&
                   offsetof(wsys_waited, events) == offsetof(struct pollfd, events) &&
                   offsetof(wsys_waited, revents) == offsetof(struct pollfd, revents),
               "wsys_waited is poll(2)'s structure");

static int answer(int result) { return result < 0 ? -errno : result; }

int wsys_limit_heaps(int most) {
  if (most < 1) return -EINVAL;
#ifdef __GLIBC__
  return mallopt(M_ARENA_MAX, most) == 1 ? 0 : -EINVAL;
#else
  return -ENOSYS;
#endif
}

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

#ifdef __linux__
enum { PROTECT = 1, MUST_BE_WATCHED = 2 }; /* flags of a scan */
enum { WRITTEN = 2, FROM_FILE = 4, PRESENT = 8, SWAPPED = 16, ZERO_PAGE = 32 }; /* categories */
enum { REGIONS = 256 };

/* What a scan continues with; `take` returns a number of pages, or an errno negated. */
typedef struct scan_context {
  int pagemap;
  uint64_t start;
  uint8_t *flags;
  struct scanned_region gathered; /* regions close to each other, which are looked at as one */
} scan_context;

typedef int64_t scan_take(scan_context *context, const struct scanned_region *region);

/* Scans a range and gives each region that is found to `take`. Returns the sum of the answers, or
 * an errno negated. */
static int64_t scan_range(scan_context *context, struct scan_arguments *scan, scan_take *take) {
  struct scanned_region found[REGIONS];
  scan->size = sizeof *scan;
  scan->regions = (uintptr_t)found;
  scan->room = REGIONS;
  int64_t count = 0;
  while (scan->start < scan->end) {
    const int n = ioctl(context->pagemap, SCAN, scan);
    if (n < 0 && errno != EINTR) return -errno;
    for (int i = 0; i < n; i++) {
      const int64_t taken = take(context, &found[i]);
      if (taken < 0) return taken;
      count += taken;
    }
    scan->start = scan->walk_end;
  }
  return count;
}

static int64_t mark(scan_context *context, const struct scanned_region *region) {
  enum { PAGE = 4096 };
  if (region->categories & (FROM_FILE | ZERO_PAGE)) return 0; /* read, not written */
  const uint64_t count = (region->end - region->start) / PAGE;
  memset(context->flags + (region->start - context->start) / PAGE, 1, count);
  return (int64_t)count;
}

static int64_t mark_written(scan_context *context, const struct scanned_region *region) {
  struct scan_arguments scan = {.flags = PROTECT | MUST_BE_WATCHED,
                                .start = region->start,
                                .end = region->end,
                                .all_of = WRITTEN,
                                .any_of = PRESENT | SWAPPED,
                                .returned = FROM_FILE | PRESENT | SWAPPED | ZERO_PAGE};
  return scan_range(context, &scan, mark);
}

/* Looks for pages that exist in what was gathered. It asks for nothing for which the kernel needs
 * more than the page table. */
static int64_t mark_gathered(scan_context *context, const struct scanned_region *region) {
  if (region->start == region->end) return 0;
  struct scan_arguments scan = {.flags = MUST_BE_WATCHED,
                                .start = region->start,
                                .end = region->end,
                                .all_of = WRITTEN,
                                .any_of = PRESENT | SWAPPED,
                                .returned = WRITTEN};
  return scan_range(context, &scan, mark_written);
}

/* Gathers regions as long as the next one is close. A call costs as much as to look at many pages,
 * and a memory can have thousands of pages that do not exist between others. */
static int64_t gather_written(scan_context *context, const struct scanned_region *region) {
  enum { CLOSE = 32 * 4096 };
  struct scanned_region *gathered = &context->gathered;
  if (gathered->end && region->start - gathered->end <= CLOSE) {
    gathered->end = region->end;
    return 0;
  }
  const struct scanned_region before = *gathered;
  *gathered = *region;
  return mark_gathered(context, &before);
}

int64_t wsys_scan_pages(int pagemap, uint64_t start, uint64_t pages, int how, uint8_t *flags) {
  enum { PAGE = 4096 };
  scan_context context = {pagemap, start, flags, {0}};
  struct scan_arguments scan = {.start = start, .end = start + pages * PAGE};
  if (how == WSYS_WRITTEN_PAGES) {
    /* The kernel has a fast way for exactly these arguments, in which pages that do not exist count
     * as written. So it only tells where to scan. */
    scan.flags = MUST_BE_WATCHED;
    scan.all_of = scan.returned = WRITTEN;
    const int64_t count = scan_range(&context, &scan, gather_written);
    const int64_t last = count < 0 ? count : mark_gathered(&context, &context.gathered);
    return last < 0 ? last : count + last;
  }
  scan.inverted = scan.all_of = FROM_FILE | ZERO_PAGE;
  scan.any_of = scan.returned = PRESENT | SWAPPED;
  return scan_range(&context, &scan, mark);
}

int wsys_watch_writes(uint64_t start, uint64_t size) {
  enum { USER_MODE_ONLY = 1, PROTECTED = 2 };
  const uint64_t asynchronous = 1 << 15, version = 0xaa;
  const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);
  if (fd < 0) return -errno;
  struct watch_features features = {version, asynchronous, 0};
  struct watched_range range = {start, size, PROTECTED, 0};
  if (ioctl(fd, WATCH_FEATURES, &features) == 0 && ioctl(fd, WATCH_RANGE, &range) == 0) return fd;
  const int error = errno;
  close(fd);
  return -error;
}
#else
int64_t wsys_scan_pages(int pagemap, uint64_t start, uint64_t pages, int how, uint8_t *flags) {
  (void)pagemap, (void)start, (void)pages, (void)how, (void)flags;
  return -ENOSYS;
}

int wsys_watch_writes(uint64_t start, uint64_t size) {
  (void)start, (void)size;
  return -ENOSYS;
}
#endif

int wsys_write_pages(int fd, uint64_t offset, const uint8_t *data, const wsys_run *runs,
                     uint64_t n) {
  enum { PAGE = 4096 };
  for (uint64_t i = 0; i < n; i++) {
    uint64_t at = runs[i].first * PAGE;
    const uint64_t end = at + runs[i].count * PAGE;
    while (at < end) {
      const ssize_t done = pwrite(fd, data + at, end - at, (off_t)(offset + at));
      if (done < 0 && errno != EINTR) return -errno;
      if (done == 0) return -EIO;
      if (done > 0) at += (uint64_t)done;
    }
  }
  return 0;
}
