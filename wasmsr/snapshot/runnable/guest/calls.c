/* The calls of WASI preview 1. The program's memory lies in ours: a pointer of the program is
 * checked, the place of its memory is added, and the outer engine reads and writes there; nothing
 * is copied. The table of the calls says which arguments are pointers. What only the program sees,
 * such as the numbers and rights of its descriptors, is answered here. */
#define WASI_CALLS
#include "calls.h"

#include <stdlib.h>
#include <string.h>

#include "wasi_calls.h"

#define LAST_INSTANT (UINT64_C(1) << 62)
#define MOST_BYTES 0xFFFFF000u
#define MOST_OFFSET (UINT64_MAX >> 1)
enum { VIRTUAL_TICK = 1000, MOST_VECTORS = 1024, FDFLAG_APPEND = 1, FDFLAG_NONBLOCK = 4 };

static int32_t at(const void *pointer) { return (int32_t)(uintptr_t)pointer; }

/* Bytes of the program, or NULL where they are not in its memory. */
static uint8_t *bytes_at(span memory, uint64_t pointer, uint64_t size) {
  pointer = (uint32_t)pointer;
  if (size > memory.size || pointer > memory.size - size) return NULL;
  return (uint8_t *)memory.data + pointer;
}

static void store_u32(uint8_t *to, uint32_t value) { memcpy(to, &value, 4); }
static void store_u64(uint8_t *to, uint64_t value) { memcpy(to, &value, 8); }

/* Buffers of the program as the outer engine's; an errno. */
static uint32_t translate_vectors(span memory, uint64_t pointer, uint64_t count, uint32_t *to,
                                  uint32_t *n) {
  count = (uint32_t)count;
  const uint8_t *const array = bytes_at(memory, pointer, count * 8);
  if (!array) return ERRNO_FAULT;
  *n = count < MOST_VECTORS ? (uint32_t)count : MOST_VECTORS;
  uint32_t left = MOST_BYTES;
  for (uint32_t i = 0; i < *n; i++) {
    uint32_t base, length;
    memcpy(&base, array + i * 8, 4);
    memcpy(&length, array + i * 8 + 4, 4);
    const uint8_t *const found = bytes_at(memory, base, length);
    if (!found) return ERRNO_FAULT;
    if (length > left) length = left;
    left -= length;
    to[i * 2] = (uint32_t)at(found);
    to[i * 2 + 1] = length;
  }
  return 0;
}

static span name_at(span memory, const uint64_t *given) {
  return (span){bytes_at(memory, given[0], (uint32_t)given[1]), (uint32_t)given[1]};
}

/* Whether a path has `..` in it. */
static bool goes_up(span name) {
  for (size_t i = 0; i + 1 < name.size; i++)
    if (name.data[i] == '.' && name.data[i + 1] == '.' && (!i || name.data[i - 1] == '/') &&
        (i + 2 == name.size || name.data[i + 2] == '/'))
      return true;
  return false;
}

/* A path for the outer engine, and where it begins. Some engines remove `..` with the name before
 * it, which may be a link; so such a path is walked here. The caller frees `path.data` if `own`. */
typedef struct {
  uint32_t base;
  span path;
  bool own;
} outer_path;

static outer_path walked(const wasi_state *of, const descriptor *base, span name) {
  if (!goes_up(name)) return (outer_path){base->outer, name, false};
  const mount *const place = of->mounts + base->mount;
  const span found = path_resolve(place, base->path, name, false, NULL);
  buffer path = {0};
  put_bytes(&path, found.size ? found.data : (const uint8_t *)".", found.size ? found.size : 1);
  if (name.data[name.size - 1] == '/') put_bytes(&path, "/", 1);
  free((void *)found.data);
  return (outer_path){place->outer, {path.data, path.size}, true};
}

/* Pass a call on, as its row says what its arguments are. */
static uint32_t pass(wasi_state *of, uint32_t call, const uint64_t *given, span memory) {
  static uint32_t vectors[MOST_VECTORS * 2];
  const bool names = call >= CALL_path_create_directory && call <= CALL_path_unlink_file;
  const call_row *const row = call_rows + call;
  uint64_t arguments[12];
  const descriptor *base = NULL;
  const uint8_t *own[2] = {NULL, NULL};
  uint32_t place = 0, n_own = 0, n, errno = 0;
  for (uint32_t i = 0; row->kinds[i] && !errno; i++) {
    const uint8_t *found = NULL;
    switch (row->kinds[i]) {
      case 'f':
        base = wasi_find(of, (uint32_t)given[i]);
        if (!base) errno = ERRNO_BADF;
        if (base) arguments[i] = base->outer;
        place = i;
        break;
      case 'p':
        if (!(found = bytes_at(memory, given[i], row->sizes[i]))) errno = ERRNO_FAULT;
        arguments[i] = (uint64_t)at(found);
        break;
      case 'b':
        if (!(found = bytes_at(memory, given[i], (uint32_t)given[i + 1]))) errno = ERRNO_FAULT;
        arguments[i] = (uint64_t)at(found);
        if (errno || !names || !base || base->kind != FD_DIRECTORY) break;
        const outer_path path = walked(of, base, (span){found, (uint32_t)given[i + 1]});
        if (path.own) own[n_own++] = path.path.data;
        arguments[place] = path.base;
        arguments[i] = (uint64_t)at(path.path.data);
        arguments[++i] = path.path.size;
        break;
      case 'v':
        errno = translate_vectors(memory, given[i], given[i + 1], vectors, &n);
        arguments[i] = (uint64_t)at(vectors);
        arguments[++i] = n;
        break;
      default: arguments[i] = given[i];
    }
  }
  if (!errno) errno = call_outer(call, arguments);
  for (uint32_t i = 0; i < n_own; i++) free((void *)own[i]);
  /* The rights were asked for here. What some engines refuse then is a path out of its mount. */
  return names && errno == ERRNO_NOTCAPABLE ? (uint32_t)ERRNO_PERM : errno;
}

static bool is_stream(const descriptor *one) { return one->kind < FD_FILE; }

enum { SUBSCRIPTION = 48, EVENT = 32, CLOCK_EVENT = 0, READ_EVENT = 1, WRITE_EVENT = 2 };
/* ns. Some engines look at the clock before they look at the descriptors, so these get a moment; a
 * longer one where the time of a deterministic program depends on the answer. */
enum { MOMENT = 10 * 1000 * 1000, LONG_MOMENT = 100 * 1000 * 1000 };

/* Whether a stream can be read, or written, at once. The outer engine's would block. */
static bool is_ready(const descriptor *one, uint8_t kind) {
  uint8_t asked[2 * SUBSCRIPTION] = {0}, found[2 * EVENT] = {0};
  uint32_t got = 0;
  asked[8] = kind;
  store_u32(asked + 16, one->outer);
  store_u32(asked + SUBSCRIPTION + 16, 1); /* the monotonic clock */
  store_u64(asked + SUBSCRIPTION + 24, MOMENT);
  if (outer_poll_oneoff(at(asked), at(found), 2, at(&got))) return true;
  for (uint32_t i = 0; i < got; i++)
    if (found[i * EVENT + 10] != CLOCK_EVENT) return true;
  return false;
}

/* Read or write with several buffers. Some engines take one buffer at a time, which they may; a
 * program would then go another way than at home. So the call is made again from the next buffer
 * on, while nothing can make it wait. */
static uint32_t transfer(wasi_state *of, uint32_t call, const uint64_t *given, span memory,
                         bool waits) {
  static uint32_t vectors[MOST_VECTORS * 2];
  const descriptor *const one = wasi_find(of, (uint32_t)given[0]);
  if (!one) return ERRNO_BADF;
  const bool placed = call == CALL_fd_pread || call == CALL_fd_pwrite;
  const bool writing = call == CALL_fd_write || call == CALL_fd_pwrite;
  uint32_t n, all = 0, first = 0;
  const uint32_t errno = translate_vectors(memory, given[1], given[2], vectors, &n);
  uint8_t *const count = bytes_at(memory, given[placed ? 4 : 3], 4);
  if (errno || !count) return errno ? errno : ERRNO_FAULT;
  if (placed && given[3] > MOST_OFFSET) return ERRNO_INVAL;
  if (writing && one->kind == FD_FILE && of->mounts[one->mount].mode == MOUNT_INPUT)
    return ERRNO_BADF;
  while (first < n && !vectors[first * 2 + 1]) first++;
  if (first < n && is_stream(one) && one->flags & FDFLAG_NONBLOCK &&
      !is_ready(one, writing ? WRITE_EVENT : READ_EVENT))
    return ERRNO_AGAIN;
  while (first < n) { /* there is a byte to move */
    uint32_t done = 0;
    const uint64_t arguments[5] = {one->outer, (uint64_t)at(vectors + first * 2), n - first,
                                   placed ? given[3] + all : (uint64_t)at(&done),
                                   (uint64_t)at(&done)};
    const uint32_t failed = call_outer(call, arguments);
    if (failed && !all) return failed;
    if (failed || !done) break;
    all += done;
    while (first < n && done >= vectors[first * 2 + 1]) done -= vectors[first++ * 2 + 1];
    if (done || waits) break; /* a part of a buffer */
  }
  if (call == CALL_fd_write && one->kind == FD_FILE && one->flags & FDFLAG_APPEND) {
    uint64_t now; /* not every engine moves the offset to the new end */
    outer_fd_seek((int32_t)one->outer, 0, 2, at(&now));
  }
  store_u32(count, all);
  return 0;
}

/* ---- rights ---- */

static uint32_t require(const descriptor *one, uint64_t right) {
  if ((one->rights & right) == right) return 0;
  if (right == RIGHT_FD_READ && one->kind == FD_DIRECTORY) return ERRNO_ISDIR;
  return right & (RIGHT_FD_READ | RIGHT_FD_WRITE) ? ERRNO_BADF : ERRNO_NOTCAPABLE;
}

/* A directory with rights; an errno. */
static uint32_t directory_of(const wasi_state *of, uint64_t fd, uint64_t rights,
                             descriptor **found) {
  *found = wasi_find(of, (uint32_t)fd);
  if (!*found) return ERRNO_BADF;
  if ((*found)->kind != FD_DIRECTORY) return ERRNO_NOTDIR;
  return rights & ~(*found)->rights ? ERRNO_NOTCAPABLE : 0;
}

/* What a call needs of its descriptor, which is its first argument: a right, and whether it must be
 * a file that has an offset. */
typedef struct {
  uint64_t right;
  bool seekable;
  uint32_t of_stream; /* the errno for a descriptor without an offset */
} demand;

static bool demand_of(uint32_t call, demand *out) {
  switch (call) {
    case CALL_fd_advise: *out = (demand){RIGHT_FD_ADVISE, true, ERRNO_SPIPE}; return true;
    case CALL_fd_allocate: *out = (demand){RIGHT_FD_ALLOCATE, true, ERRNO_SPIPE}; return true;
    case CALL_fd_filestat_set_size:
      *out = (demand){RIGHT_FD_FILESTAT_SET_SIZE, true, ERRNO_INVAL};
      return true;
    case CALL_fd_pread: *out = (demand){RIGHT_FD_READ, true, ERRNO_SPIPE}; return true;
    case CALL_fd_pwrite: *out = (demand){RIGHT_FD_WRITE, true, ERRNO_SPIPE}; return true;
    case CALL_fd_read: *out = (demand){RIGHT_FD_READ, false, 0}; return true;
    case CALL_fd_write: *out = (demand){RIGHT_FD_WRITE, false, 0}; return true;
    default: return false;
  }
}

static uint32_t demanded(const wasi_state *of, uint32_t call, const uint64_t *given) {
  demand wanted;
  if (!demand_of(call, &wanted)) return 0;
  const descriptor *const one = wasi_find(of, (uint32_t)given[0]);
  if (!one) return ERRNO_BADF;
  uint32_t errno = 0;
  if (wanted.right & (RIGHT_FD_READ | RIGHT_FD_WRITE)) errno = require(one, wanted.right);
  if (!errno && wanted.seekable && one->kind != FD_FILE)
    errno = one->kind == FD_DIRECTORY ? ERRNO_BADF : wanted.of_stream;
  if (!errno) errno = require(one, wanted.right);
  if (!errno && (call == CALL_fd_pread || call == CALL_fd_pwrite))
    errno = require(one, RIGHT_FD_SEEK);
  return errno;
}

/* What a call needs of the directories that it names. */
static uint32_t permitted(const wasi_state *of, uint32_t call, const uint64_t *given) {
  descriptor *found;
  uint32_t errno;
  switch (call) {
    case CALL_path_create_directory:
      return directory_of(of, given[0], RIGHT_PATH_CREATE_DIRECTORY, &found);
    case CALL_path_filestat_get: return directory_of(of, given[0], RIGHT_PATH_FILESTAT_GET, &found);
    case CALL_path_filestat_set_times:
      return directory_of(of, given[0], RIGHT_PATH_FILESTAT_SET_TIMES, &found);
    case CALL_path_link:
      errno = directory_of(of, given[0], RIGHT_PATH_LINK_SOURCE, &found);
      return errno ? errno : directory_of(of, given[4], RIGHT_PATH_LINK_TARGET, &found);
    case CALL_path_readlink: return directory_of(of, given[0], RIGHT_PATH_READLINK, &found);
    case CALL_path_remove_directory:
      return directory_of(of, given[0], RIGHT_PATH_REMOVE_DIRECTORY, &found);
    case CALL_path_rename:
      errno = directory_of(of, given[0], RIGHT_PATH_RENAME_SOURCE, &found);
      return errno ? errno : directory_of(of, given[3], RIGHT_PATH_RENAME_TARGET, &found);
    case CALL_path_symlink: return directory_of(of, given[2], RIGHT_PATH_SYMLINK, &found);
    case CALL_path_unlink_file: return directory_of(of, given[0], RIGHT_PATH_UNLINK_FILE, &found);
    default: return 0;
  }
}

/* What is wrong with the paths of a call. They never leave the directory they start from; an engine
 * may take a path above it for one of another name. */
static uint32_t wrong_paths(const wasi_state *of, uint32_t call, const uint64_t *given,
                            span memory) {
  if (call < CALL_path_create_directory || call > CALL_path_unlink_file) return 0;
  const char *const kinds = call_rows[call].kinds;
  const descriptor *base = NULL;
  for (uint32_t i = 0; kinds[i]; i++) {
    if (kinds[i] == 'f') base = wasi_find(of, (uint32_t)given[i]);
    if (kinds[i] != 'b' || !base || base->kind != FD_DIRECTORY) continue;
    const span name = name_at(memory, given + i);
    if (!name.data) return ERRNO_FAULT;
    if (!name.size) return ERRNO_NOENT;
    if (name.data[0] == '/') return ERRNO_PERM;
    bool left = false;
    if (goes_up(name)) {
      const span found = path_resolve(of->mounts + base->mount, base->path, name, false, &left);
      free((void *)found.data);
    }
    if (left) return ERRNO_PERM;
    if (call == CALL_path_readlink) break; /* the other is a buffer */
  }
  return 0;
}

/* What is wrong with the other arguments of a call. Engines answer to that in different ways, and
 * some end the program. */
static uint32_t wrong_times(uint64_t access, uint64_t modification, uint64_t flags) {
  enum { ATIM = 1, ATIM_NOW = 2, MTIM = 4, MTIM_NOW = 8, FSTFLAGS_ALL = 15 };
  const uint32_t wanted = (uint32_t)flags;
  if (wanted & ~(uint32_t)FSTFLAGS_ALL) return ERRNO_INVAL;
  if ((wanted & (ATIM | ATIM_NOW)) == (ATIM | ATIM_NOW)) return ERRNO_INVAL;
  if ((wanted & (MTIM | MTIM_NOW)) == (MTIM | MTIM_NOW)) return ERRNO_INVAL;
  if ((wanted & ATIM && access > MOST_OFFSET) || (wanted & MTIM && modification > MOST_OFFSET))
    return ERRNO_INVAL;
  return 0;
}

static uint32_t wrong_arguments(uint32_t call, const uint64_t *given) {
  enum { LAST_ADVICE = 5 };
  switch (call) {
    case CALL_fd_advise:
      return (uint32_t)given[3] > LAST_ADVICE || given[1] > MOST_OFFSET || given[2] > MOST_OFFSET
                 ? (uint32_t)ERRNO_INVAL
                 : 0;
    case CALL_fd_allocate:
      if (given[1] > MOST_OFFSET || given[2] > MOST_OFFSET || !given[2]) return ERRNO_INVAL;
      return given[1] + given[2] > MOST_OFFSET ? (uint32_t)ERRNO_FBIG : 0;
    case CALL_fd_filestat_set_size: return given[1] > MOST_OFFSET ? (uint32_t)ERRNO_INVAL : 0;
    case CALL_path_filestat_set_times:
      if ((uint32_t)given[1] > 1) return ERRNO_INVAL;
      return wrong_times(given[4], given[5], given[6]);
    case CALL_path_filestat_get:
    case CALL_path_link: return (uint32_t)given[1] > 1 ? (uint32_t)ERRNO_INVAL : 0;
    default: return 0;
  }
}

/* ---- mounts that are only read ---- */

/* Whether a name is there: 0, or an errno. */
static uint32_t look(const descriptor *base, span name, bool follow) {
  uint8_t stat[64];
  if (!name.data) return ERRNO_FAULT;
  const uint32_t errno = (uint32_t)outer_path_filestat_get(
      (int32_t)base->outer, follow, at(name.data), (int32_t)name.size, at(stat));
  return errno == ERRNO_NOTCAPABLE ? (uint32_t)ERRNO_PERM : errno;
}

/* Whether the directory of a name is there. */
static uint32_t look_above(const descriptor *base, span name) {
  size_t size = name.size;
  while (size && name.data[size - 1] == '/') size--;
  while (size && name.data[size - 1] != '/') size--;
  return name.data && size ? look(base, (span){name.data, size}, true) : 0;
}

/* What answers to a name that is to be made. */
static uint32_t refuse_new(const wasi_state *of, const descriptor *base, span name) {
  const uint32_t errno = look(base, name, false);
  if (!errno) return ERRNO_EXIST;
  if (errno != ERRNO_NOENT || of->mounts[base->mount].mode == MOUNT_INPUT) return errno;
  const uint32_t above = look_above(base, name);
  return above ? above : (uint32_t)ERRNO_ROFS;
}

/* What a call gets that would change something in a mount that is only read; 0 if it would not. */
static uint32_t kept_as_it_is(const wasi_state *of, uint32_t call, const uint64_t *given,
                              span memory) {
  uint32_t place = 0, name = 1;
  switch (call) {
    case CALL_fd_allocate:
    case CALL_fd_filestat_set_size:
    case CALL_fd_filestat_set_times:
    case CALL_path_create_directory:
    case CALL_path_remove_directory:
    case CALL_path_unlink_file:
    case CALL_path_rename: break;
    case CALL_path_filestat_set_times: name = 2; break;
    case CALL_path_link: name = 2; break;
    case CALL_path_symlink:
      place = 2;
      name = 3;
      break;
    default: return 0;
  }
  const descriptor *base = wasi_find(of, (uint32_t)given[place]);
  if (!base || base->kind < FD_FILE) return 0;
  const uint32_t mode = of->mounts[base->mount].mode;
  if (call == CALL_path_link || call == CALL_path_rename) {
    const uint32_t second = call == CALL_path_link ? 4 : 3;
    const descriptor *const target = wasi_find(of, (uint32_t)given[second]);
    if (mode != MOUNT_HOST || of->mounts[target->mount].mode != MOUNT_HOST) {
      if (base->mount != target->mount) return ERRNO_XDEV;
      uint32_t errno = look_above(base, name_at(memory, given + name));
      if (!errno) errno = look_above(target, name_at(memory, given + second + 1));
      if (call == CALL_path_rename) return errno ? errno : (uint32_t)ERRNO_ROFS;
      if (!errno) errno = look(base, name_at(memory, given + name), false);
      return errno ? errno : refuse_new(of, target, name_at(memory, given + second + 1));
    }
    return 0;
  }
  if (mode == MOUNT_HOST) return 0;
  if (call == CALL_fd_filestat_set_times) return ERRNO_ROFS;
  if (call == CALL_fd_allocate) return mode == MOUNT_INPUT ? ERRNO_BADF : 0;
  if (call == CALL_fd_filestat_set_size) return mode == MOUNT_INPUT ? ERRNO_INVAL : 0;
  const span path = name_at(memory, given + name);
  if (call == CALL_path_create_directory || call == CALL_path_symlink)
    return refuse_new(of, base, path);
  const uint32_t errno = call == CALL_path_filestat_set_times ? look(base, path, given[1] & 1)
                                                              : look_above(base, path);
  return errno ? errno : (uint32_t)ERRNO_ROFS;
}

/* ---- the process ---- */

static uint32_t strings_sizes(const wasi_state *of, int kind, const uint64_t *given, span memory) {
  uint8_t *const count = bytes_at(memory, given[0], 4), *const size = bytes_at(memory, given[1], 4);
  if (!count || !size) return ERRNO_FAULT;
  uint64_t all = of->n_strings[kind];
  for (uint32_t i = 0; i < of->n_strings[kind]; i++) all += of->strings[kind][i].size;
  if (all > UINT32_MAX) return ERRNO_OVERFLOW;
  store_u32(count, of->n_strings[kind]);
  store_u32(size, (uint32_t)all);
  return 0;
}

static uint32_t strings_get(const wasi_state *of, int kind, const uint64_t *given, span memory) {
  const uint32_t n = of->n_strings[kind];
  uint64_t all = n;
  for (uint32_t i = 0; i < n; i++) all += of->strings[kind][i].size;
  uint8_t *const pointers = bytes_at(memory, given[0], (uint64_t)n * 4);
  uint8_t *to = bytes_at(memory, given[1], all);
  if (!pointers || !to) return ERRNO_FAULT;
  uint32_t place = (uint32_t)given[1];
  for (uint32_t i = 0; i < n; i++) {
    const span one = of->strings[kind][i];
    memcpy(to, one.data, one.size);
    to[one.size] = 0;
    to += one.size + 1;
    store_u32(pointers + i * 4, place);
    place += (uint32_t)one.size + 1;
  }
  return 0;
}

static uint32_t clock_time(wasi_state *of, const uint64_t *given, span memory) {
  uint8_t *const to = bytes_at(memory, given[2], 8);
  if (!to) return ERRNO_FAULT;
  if (of->deterministic) of->monotonic += VIRTUAL_TICK;
  switch ((uint32_t)given[0]) {
    case 0: store_u64(to, wasi_realtime(of)); return 0;
    case 1: store_u64(to, wasi_monotonic(of)); return 0;
    case 2:
    case 3: store_u64(to, wasi_cpu(of)); return 0;
    default: return ERRNO_INVAL;
  }
}

static uint32_t random_bytes(wasi_state *of, const uint64_t *given, span memory) {
  uint32_t size = (uint32_t)given[1];
  uint8_t *to = bytes_at(memory, given[0], size);
  if (!to) return ERRNO_FAULT;
  if (!of->seeded) return (uint32_t)outer_random_get(at(to), (int32_t)size);
  while (size) {
    uint8_t block[64];
    blake2b_of_number(of->seed, of->position / 64, block);
    const uint32_t skip = of->position % 64, now = size < 64 - skip ? size : 64 - skip;
    memcpy(to, block + skip, now);
    to += now;
    size -= now;
    of->position += now;
  }
  return 0;
}

static uint32_t raise_signal(uint64_t given) {
  enum { LAST_SIGNAL = 30 };
  /* NONE, PIPE, CHLD, CONT, URG and WINCH are ignored; STOP, TSTP, TTIN, TTOU cannot be. */
  const uint32_t ignored = 1u << 0 | 1u << 13 | 1u << 16 | 1u << 17 | 1u << 22 | 1u << 26;
  const uint32_t stopping = 1u << 18 | 1u << 19 | 1u << 20 | 1u << 21;
  const uint32_t signal = (uint32_t)given;
  if (signal > LAST_SIGNAL) return ERRNO_INVAL;
  if (stopping >> signal & 1) return ERRNO_NOTSUP;
  if (!(ignored >> signal & 1)) outer_proc_exit((int32_t)(128 + signal));
  return 0;
}

/* ---- descriptors ---- */

static uint32_t read_stream(descriptor *one, const uint64_t *given, span memory, bool *done) {
  *done = one->unread.size || one->ended;
  if (!*done) return 0;
  static uint32_t vectors[MOST_VECTORS * 2];
  uint32_t n, all = 0;
  const uint32_t errno = translate_vectors(memory, given[1], given[2], vectors, &n);
  uint8_t *const count = bytes_at(memory, given[3], 4);
  if (errno || !count) return errno ? errno : ERRNO_FAULT;
  for (uint32_t i = 0; i < n && one->unread.size; i++) {
    const size_t now =
        vectors[i * 2 + 1] < one->unread.size ? vectors[i * 2 + 1] : one->unread.size;
    memcpy((void *)(uintptr_t)vectors[i * 2], one->unread.data, now);
    one->unread.data += now;
    one->unread.size -= now;
    all += (uint32_t)now;
  }
  store_u32(count, all);
  return 0;
}

static uint32_t fd_read_call(wasi_state *of, const uint64_t *given, span memory) {
  descriptor *const one = wasi_find(of, (uint32_t)given[0]);
  if (one->kind == FD_STDIN) {
    bool done;
    const uint32_t errno = read_stream(one, given, memory, &done);
    if (done) return errno;
  }
  const uint32_t errno =
      transfer(of, CALL_fd_read, given, memory,
               one->kind != FD_FILE && !(one->kind == FD_STDIN && one->has_file));
  if (!errno && one->kind == FD_STDIN && one->has_file) {
    static uint32_t vectors[MOST_VECTORS * 2];
    uint32_t got, n;
    memcpy(&got, bytes_at(memory, given[3], 4), 4);
    if (translate_vectors(memory, given[1], given[2], vectors, &n)) return errno;
    for (uint32_t i = 0; i < n && got; i++) {
      const uint32_t now = vectors[i * 2 + 1] < got ? vectors[i * 2 + 1] : got;
      note_input(one, (const uint8_t *)(uintptr_t)vectors[i * 2], now);
      got -= now;
    }
  }
  return errno;
}

static void close_outer(const descriptor *one) {
  if (!one->preopen && one->kind >= FD_FILE) outer_fd_close((int32_t)one->outer);
}

static uint32_t fd_close_call(wasi_state *of, uint64_t fd) {
  descriptor *const one = wasi_find(of, (uint32_t)fd);
  if (!one) return ERRNO_BADF;
  close_outer(one);
  descriptor_free(one);
  return 0;
}

static uint32_t fd_renumber_call(wasi_state *of, const uint64_t *given) {
  descriptor *const from = wasi_find(of, (uint32_t)given[0]);
  descriptor *const to = wasi_find(of, (uint32_t)given[1]);
  if (!from || !to) return ERRNO_BADF;
  if (from == to) return 0;
  close_outer(to);
  descriptor_free(to);
  *to = *from;
  *from = (descriptor){0};
  return 0;
}

/* A terminal, or nothing that a program could know. */
static uint8_t type_of_stream(uint8_t type) {
  enum { CHARACTER_DEVICE = 2, UNKNOWN = 0 };
  return type == CHARACTER_DEVICE ? CHARACTER_DEVICE : UNKNOWN;
}

static uint32_t fdstat_get(wasi_state *of, const uint64_t *given, span memory) {
  const uint32_t errno = pass(of, CALL_fd_fdstat_get, given, memory);
  if (errno) return errno;
  const descriptor *const one = wasi_find(of, (uint32_t)given[0]);
  uint8_t *const to = bytes_at(memory, given[1], 24);
  if (is_stream(one)) to[0] = type_of_stream(to[0]);
  to[1] = 0; /* an engine may leave anything between the fields */
  memset(to + 4, 0, 4);
  to[2] = (uint8_t)one->flags;
  to[3] = (uint8_t)(one->flags >> 8);
  store_u64(to + 8, one->rights);
  store_u64(to + 16, one->inheriting);
  return 0;
}

static uint32_t fdstat_set_flags(wasi_state *of, const uint64_t *given, span memory) {
  descriptor *const one = wasi_find(of, (uint32_t)given[0]);
  const uint32_t flags = (uint32_t)given[1];
  if (!one) return ERRNO_BADF;
  if (flags & ~(uint32_t)FDFLAGS_ALL) return ERRNO_INVAL;
  const uint32_t errno = require(one, RIGHT_FD_FDSTAT_SET_FLAGS);
  if (errno) return errno;
  if (one->kind == FD_FILE || one->kind == FD_DEVICE) {
    if ((flags ^ one->flags) & ~5u) return ERRNO_INVAL; /* only APPEND and NONBLOCK can change */
    const uint32_t outer = pass(of, CALL_fd_fdstat_set_flags, given, memory);
    if (outer) return outer;
  }
  one->flags = flags;
  return 0;
}

static uint32_t allocate_call(wasi_state *of, const uint64_t *given, span memory) {
  const uint32_t errno = pass(of, CALL_fd_allocate, given, memory);
  if (errno != ERRNO_NOTSUP && errno != ERRNO_NOSYS) return errno;
  const descriptor *const one = wasi_find(of, (uint32_t)given[0]);
  uint64_t stat[8] = {0};
  const uint32_t failed = (uint32_t)outer_fd_filestat_get((int32_t)one->outer, at(stat));
  if (failed || stat[4] >= given[1] + given[2]) return failed;
  return (uint32_t)outer_fd_filestat_set_size((int32_t)one->outer, (int64_t)(given[1] + given[2]));
}

/* Times of now are the program's, which need not be the outer engine's. */
static uint32_t set_times(wasi_state *of, uint32_t call, const uint64_t *given, span memory,
                          uint32_t first) {
  uint64_t changed[7];
  memcpy(changed, given, (first + 3) * sizeof *given);
  for (uint32_t which = 0; which < 2; which++) {
    const uint64_t now = UINT64_C(2) << which * 2;
    if (!(changed[first + 2] & now)) continue;
    changed[first + which] = wasi_realtime(of);
    changed[first + 2] ^= now | now >> 1;
  }
  return pass(of, call, changed, memory);
}

static uint32_t set_rights(wasi_state *of, const uint64_t *given) {
  descriptor *const one = wasi_find(of, (uint32_t)given[0]);
  if (!one) return ERRNO_BADF;
  if (given[1] & ~one->rights || given[2] & ~one->inheriting) return ERRNO_NOTCAPABLE;
  one->rights = given[1];
  one->inheriting = given[2];
  return 0;
}

static uint32_t filestat_get(wasi_state *of, const uint64_t *given, span memory) {
  const descriptor *const one = wasi_find(of, (uint32_t)given[0]);
  if (!one) return ERRNO_BADF;
  uint32_t errno = require(one, RIGHT_FD_FILESTAT_GET);
  if (errno) return errno;
  uint8_t *const to = bytes_at(memory, given[1], 64);
  if (!to) return ERRNO_FAULT;
  if (!is_stream(one)) {
    errno = pass(of, CALL_fd_filestat_get, given, memory);
    if (!errno) memset(to + 17, 0, 7); /* an engine may leave anything between the fields */
    return errno;
  }
  uint8_t stat[24] = {0};
  errno = (uint32_t)outer_fd_fdstat_get((int32_t)one->outer, at(stat));
  memset(to, 0, 64);
  to[16] = type_of_stream(stat[0]); /* all is 0 but the type */
  return errno;
}

static uint32_t fd_seek_call(wasi_state *of, const uint64_t *given, span memory, bool telling) {
  const descriptor *const one = wasi_find(of, (uint32_t)given[0]);
  if (!one) return ERRNO_BADF;
  if (one->kind != FD_FILE) return one->kind == FD_DIRECTORY ? ERRNO_BADF : ERRNO_SPIPE;
  if (!telling && (uint32_t)given[2] > 2) return ERRNO_INVAL;
  const bool looking = telling || ((uint32_t)given[2] == 1 && !given[1]);
  const uint64_t enough = looking ? RIGHT_FD_SEEK | RIGHT_FD_TELL : RIGHT_FD_SEEK;
  if (!(one->rights & enough)) return ERRNO_NOTCAPABLE;
  return pass(of, telling ? CALL_fd_tell : CALL_fd_seek, given, memory);
}

static uint32_t preopen_of(const wasi_state *of, uint64_t fd, span *name) {
  const descriptor *const one = wasi_find(of, (uint32_t)fd);
  if (!one || !one->preopen) return ERRNO_BADF;
  *name = of->mounts[one->mount].name;
  return 0;
}

static uint32_t prestat_get(const wasi_state *of, const uint64_t *given, span memory) {
  span name;
  const uint32_t errno = preopen_of(of, given[0], &name);
  uint8_t *const to = bytes_at(memory, given[1], 8);
  if (errno || !to) return errno ? errno : ERRNO_FAULT;
  store_u32(to, 0);
  store_u32(to + 4, (uint32_t)name.size);
  return 0;
}

static uint32_t prestat_dir_name(const wasi_state *of, const uint64_t *given, span memory) {
  span name;
  const uint32_t errno = preopen_of(of, given[0], &name);
  if (errno) return errno;
  if ((uint32_t)given[2] < name.size) return ERRNO_NAMETOOLONG;
  uint8_t *const to = bytes_at(memory, given[1], name.size);
  if (!to) return ERRNO_FAULT;
  memcpy(to, name.data, name.size);
  return 0;
}

static uint32_t readdir_call(wasi_state *of, const uint64_t *given, span memory) {
  enum { HEAD = 24 };
  descriptor *one;
  uint32_t errno = directory_of(of, given[0], RIGHT_FD_READDIR, &one);
  if (errno) return errno;
  const uint32_t room = (uint32_t)given[2];
  uint8_t *const to = bytes_at(memory, given[1], room), *const count =
                                                            bytes_at(memory, given[4], 4);
  if (!to || !count) return ERRNO_FAULT;
  if (one->n_entries == NO_ENTRIES || !given[3]) {
    entry *entries;
    uint32_t n;
    if ((errno = list_outer(one->outer, &entries, &n))) return errno;
    entries_free(one);
    one->entries = entries;
    one->n_entries = n;
  }
  uint32_t used = 0;
  for (uint64_t i = given[3]; i < one->n_entries && used < room; i++) {
    const entry *const found = one->entries + i;
    uint8_t head[HEAD] = {0};
    store_u64(head, i + 1);
    store_u64(head + 8, found->inode);
    store_u32(head + 16, (uint32_t)found->name.size);
    head[20] = (uint8_t)found->type;
    const uint32_t first = room - used < HEAD ? room - used : HEAD;
    memcpy(to + used, head, first);
    used += first;
    const uint32_t rest = room - used < found->name.size ? room - used : (uint32_t)found->name.size;
    memcpy(to + used, found->name.data, rest);
    used += rest;
  }
  store_u32(count, used);
  return 0;
}

/* ---- paths ---- */

enum { CREAT = 1, DIRECTORY = 2, EXCL = 4, TRUNC = 8, OFLAGS_ALL = 15 };

/* Open in a mount that is only read, as at home. */
static uint32_t open_to_read(const wasi_state *of, const descriptor *base, span name,
                             uint32_t follow, uint32_t oflags, descriptor *one) {
  const mount *const place = of->mounts + base->mount;
  const bool input = place->mode == MOUNT_INPUT, writing = is_writing(one->access);
  if (oflags & CREAT && oflags & EXCL) return refuse_new(of, base, name);
  const uint32_t errno = open_outer(place, base->outer, follow, name, oflags & DIRECTORY,
                                    ACCESS_READ, one->flags, &one->outer);
  if (errno == ERRNO_NOENT && oflags & CREAT && !input) return ERRNO_ROFS;
  if (errno) return errno;
  const uint8_t kind = kind_of(one->outer);
  uint32_t refused = 0;
  if (kind == FD_DIRECTORY && (writing || (oflags & CREAT && !input))) refused = ERRNO_ISDIR;
  if (kind == FD_FILE && writing && !input) refused = ERRNO_ROFS;
  if (kind != FD_DEVICE || !writing || input) {
    if (refused) outer_fd_close((int32_t)one->outer);
    return refused;
  }
  /* A device is written to, not the file system that its name is in. */
  outer_fd_close((int32_t)one->outer);
  return open_outer(place, base->outer, follow, name, 0, one->access, one->flags, &one->outer);
}

static bool ends_in_link(const descriptor *base, span name) {
  enum { SYMBOLIC_LINK = 7 };
  uint8_t stat[64] = {0};
  return name.data[name.size - 1] != '/' &&
         !outer_path_filestat_get((int32_t)base->outer, 0, at(name.data), (int32_t)name.size,
                                  at(stat)) &&
         stat[16] == SYMBOLIC_LINK;
}

static uint32_t path_open_call(wasi_state *of, const uint64_t *given, span memory) {
  descriptor *base;
  const uint32_t errno = directory_of(of, given[0], RIGHT_PATH_OPEN, &base);
  if (errno) return errno;
  const span name = name_at(memory, given + 2);
  uint8_t *const opened = bytes_at(memory, given[8], 4);
  if (!name.data || !opened) return ERRNO_FAULT;
  const uint32_t follow = (uint32_t)given[1], oflags = (uint32_t)given[4],
                 fdflags = (uint32_t)given[7];
  if (follow > 1 || oflags & ~(uint32_t)OFLAGS_ALL || fdflags & ~(uint32_t)FDFLAGS_ALL ||
      (oflags & DIRECTORY && oflags != DIRECTORY))
    return ERRNO_INVAL;
  if (oflags & CREAT && !(base->rights & RIGHT_PATH_CREATE_FILE)) return ERRNO_NOTCAPABLE;
  if (oflags & TRUNC && !(base->rights & RIGHT_PATH_FILESTAT_SET_SIZE)) return ERRNO_NOTCAPABLE;
  uint64_t rights = given[5] & base->inheriting;
  if (given[5] & ~rights & (RIGHT_FD_READ | RIGHT_FD_WRITE)) return ERRNO_NOTCAPABLE;
  const bool reading = rights & RIGHT_FD_READ, writing = rights & RIGHT_FD_WRITE || oflags & TRUNC;
  const mount *const place = of->mounts + base->mount;
  if (!follow && ends_in_link(base, name)) return oflags & EXCL ? ERRNO_EXIST : ERRNO_LOOP;
  descriptor one = {
      .outer = NO_OUTER, .n_entries = NO_ENTRIES, .mount = base->mount, .flags = fdflags};
  one.access = !writing ? ACCESS_READ : reading ? ACCESS_BOTH : ACCESS_WRITE;
  uint32_t failed;
  if (place->mode == MOUNT_HOST) {
    const outer_path path = walked(of, base, name);
    failed =
        open_outer(place, path.base, follow, path.path, oflags, one.access, fdflags, &one.outer);
    if (path.own) free((void *)path.path.data);
  } else {
    failed = open_to_read(of, base, name, follow, oflags, &one);
  }
  if (failed) return failed;
  one.kind = kind_of(one.outer);
  rights &= one.kind == FD_DIRECTORY ? RIGHTS_OF_DIRECTORY : RIGHTS_OF_FILE;
  if (one.kind != FD_DIRECTORY && one.access == ACCESS_READ)
    rights &= ~(RIGHT_FD_ALLOCATE | RIGHT_FD_FILESTAT_SET_SIZE);
  one.rights = rights;
  one.inheriting = one.kind == FD_DIRECTORY ? given[6] & base->inheriting & RIGHTS_ALL : 0;
  one.path = path_resolve(place, base->path, name, follow, NULL);
  const uint32_t fd = wasi_add(of, &one);
  if (fd == UINT32_MAX) {
    close_outer(&one);
    descriptor_free(&one);
    return ERRNO_MFILE;
  }
  store_u32(opened, fd);
  return 0;
}

static bool is_below(span path, span folder) {
  return path.size >= folder.size &&
         (!folder.size || !memcmp(path.data, folder.data, folder.size)) &&
         (path.size == folder.size || !folder.size || path.data[folder.size] == '/');
}

/* Descriptors below a name that was given away go along. */
static uint32_t rename_call(wasi_state *of, const uint64_t *given, span memory) {
  const descriptor *const source = wasi_find(of, (uint32_t)given[0]);
  const descriptor *const target = wasi_find(of, (uint32_t)given[3]);
  const span from = name_at(memory, given + 1), to = name_at(memory, given + 4);
  if (!from.data || !to.data) return ERRNO_FAULT;
  const uint32_t mounts[2] = {source->mount, target->mount};
  const span old = path_resolve(of->mounts + mounts[0], source->path, from, false, NULL);
  const span renamed = path_resolve(of->mounts + mounts[1], target->path, to, false, NULL);
  const uint32_t errno = pass(of, CALL_path_rename, given, memory);
  for (uint32_t fd = 0; fd < of->n_table && !errno; fd++) {
    descriptor *const one = of->table + fd;
    if (one->kind < FD_FILE || one->preopen || one->mount != mounts[0] || !is_below(one->path, old))
      continue;
    buffer path = {0};
    put_bytes(&path, renamed.data, renamed.size);
    put_bytes(&path, one->path.data + old.size, one->path.size - old.size);
    free((void *)one->path.data);
    one->path = (span){path.data, path.size};
    one->mount = mounts[1];
  }
  free((void *)old.data);
  free((void *)renamed.data);
  return errno;
}

/* What a link says, cut to the buffer; an engine may refuse a buffer that is too small. */
static uint32_t readlink_call(wasi_state *of, const uint64_t *given, span memory) {
  static uint8_t target[4096];
  const descriptor *const base = wasi_find(of, (uint32_t)given[0]);
  const span name = name_at(memory, given + 1);
  const uint32_t room = (uint32_t)given[4];
  uint8_t *const to = bytes_at(memory, given[3], room), *const count =
                                                            bytes_at(memory, given[5], 4);
  if (!name.data || !to || !count) return ERRNO_FAULT;
  uint32_t length = 0;
  const uint32_t errno =
      (uint32_t)outer_path_readlink((int32_t)base->outer, at(name.data), (int32_t)name.size,
                                    at(target), sizeof target, at(&length));
  if (errno) return errno;
  if (length > room) length = room;
  memcpy(to, target, length);
  store_u32(count, length);
  return 0;
}

static uint32_t path_filestat_call(wasi_state *of, const uint64_t *given, span memory) {
  const uint32_t errno = pass(of, CALL_path_filestat_get, given, memory);
  if (!errno) memset(bytes_at(memory, given[4], 64) + 17, 0, 7);
  return errno;
}

/* Not every engine follows a link at the end of the old path. */
static uint32_t link_call(wasi_state *of, const uint64_t *given, span memory) {
  if (!(uint32_t)given[1]) return pass(of, CALL_path_link, given, memory);
  const descriptor *const base = wasi_find(of, (uint32_t)given[0]);
  const descriptor *const target = wasi_find(of, (uint32_t)given[4]);
  const span old = name_at(memory, given + 2), new = name_at(memory, given + 5);
  if (!old.data || !new.data) return ERRNO_FAULT;
  const mount *const place = of->mounts + base->mount;
  const span found = path_resolve(place, base->path, old, true, NULL);
  const uint32_t errno =
      (uint32_t)outer_path_link((int32_t)place->outer, 0, at(found.data), (int32_t)found.size,
                                (int32_t)target->outer, at(new.data), (int32_t)new.size);
  free((void *)found.data);
  return errno;
}

static uint32_t symlink_call(wasi_state *of, const uint64_t *given, span memory) {
  const span content = name_at(memory, given);
  if (!content.data) return ERRNO_FAULT;
  if (content.size && memchr(content.data, 0, content.size)) return ERRNO_INVAL;
  if (content.size && content.data[0] == '/') return ERRNO_PERM; /* nobody here could follow it */
  return pass(of, CALL_path_symlink, given, memory);
}

/* ---- waiting ---- */

typedef struct {
  uint8_t *to;
  uint32_t n;
} events;

static void put_event(events *found, uint64_t userdata, uint32_t kind, uint32_t errno,
                      uint64_t nbytes) {
  uint8_t *const to = found->to + (size_t)found->n++ * EVENT;
  memset(to, 0, EVENT);
  store_u64(to, userdata);
  to[8] = (uint8_t)errno;
  to[9] = (uint8_t)(errno >> 8);
  to[10] = (uint8_t)kind;
  store_u64(to + 16, nbytes);
}

static void put_clock(uint8_t *to, uint64_t userdata, uint64_t left) {
  memset(to, 0, SUBSCRIPTION);
  store_u64(to, userdata);
  store_u32(to + 16, 1); /* the monotonic clock */
  store_u64(to + 24, left);
}

/* When a clock's subscription ends, on the program's monotonic clock; an errno if it cannot. */
static uint32_t deadline_of(const wasi_state *of, const uint8_t *from, uint64_t started,
                            uint64_t *end) {
  uint32_t clock;
  uint64_t timeout;
  uint16_t flags;
  memcpy(&clock, from + 16, 4);
  memcpy(&timeout, from + 24, 8);
  memcpy(&flags, from + 40, 2);
  if (flags > 1) return ERRNO_INVAL;
  if (clock > 1) return clock > 3 ? ERRNO_INVAL : ERRNO_NOTSUP;
  uint64_t base = flags ? 0 : started;
  if (flags && clock == 0) {
    const uint64_t now = wasi_realtime(of);
    timeout = timeout > now ? timeout - now : 0;
    base = wasi_monotonic(of);
  }
  *end = timeout > LAST_INSTANT - base ? LAST_INSTANT : base + timeout;
  return 0;
}

/* Bytes that are there at once; false if only the outer engine can say. */
static bool available(const descriptor *one, uint32_t kind, uint64_t *bytes) {
  enum { PIPE_PIECE = 4096 };
  *bytes = one->unread.size;
  if (one->kind == FD_DIRECTORY || one->unread.size || one->ended) return true;
  if (one->kind == FD_DEVICE || (is_stream(one) && kind_of(one->outer) != FD_FILE)) return false;
  *bytes = PIPE_PIECE;
  if (kind == WRITE_EVENT) return true;
  uint64_t offset = 0, stat[8] = {0};
  outer_fd_tell((int32_t)one->outer, at(&offset));
  outer_fd_filestat_get((int32_t)one->outer, at(stat));
  *bytes = stat[4] > offset ? stat[4] - offset : 0;
  return true;
}

/* Have the outer engine wait, and take its events but for clocks. An errno. */
static uint32_t ask_outer(const uint8_t *asked, uint32_t n, events *found) {
  uint32_t got = 0;
  uint8_t *const answers = allocate(n, EVENT);
  const uint32_t errno = (uint32_t)outer_poll_oneoff(at(asked), at(answers), (int32_t)n, at(&got));
  for (uint32_t i = 0; i < got && !errno; i++) {
    uint8_t *const one = answers + (size_t)i * EVENT;
    if (one[10] == CLOCK_EVENT) continue;
    if (one[10] == WRITE_EVENT) store_u64(one + 16, 0); /* nobody knows how much */
    memcpy(found->to + (size_t)found->n++ * EVENT, one, EVENT);
  }
  free(answers);
  return errno;
}

static uint32_t poll_call(wasi_state *of, const uint64_t *given, span memory) {
  const uint64_t n = (uint32_t)given[2];
  const bool again = of->pending; /* the call that was interrupted is made again first */
  of->pending = false;
  if (!n) return ERRNO_INVAL;
  uint8_t *const from = bytes_at(memory, given[0], n * SUBSCRIPTION);
  uint8_t *const to = bytes_at(memory, given[1], n * EVENT), *const count =
                                                                 bytes_at(memory, given[3], 4);
  if (!from || !to || !count) return ERRNO_FAULT;
  const uint64_t started = again ? of->started : wasi_monotonic(of);
  events found = {allocate(n * 2, EVENT), 0};
  uint8_t *const asked = allocate(n + 1, SUBSCRIPTION);
  uint64_t *const ends = allocate(n, sizeof *ends);
  uint32_t n_asked = 0, errno = 0;
  uint64_t first = UINT64_MAX;
  for (uint64_t i = 0; i < n && !errno; i++) {
    const uint8_t *const one = from + i * SUBSCRIPTION;
    uint64_t userdata, bytes;
    uint32_t fd;
    memcpy(&userdata, one, 8);
    memcpy(&fd, one + 16, 4);
    ends[i] = UINT64_MAX;
    if (one[8] == CLOCK_EVENT) {
      const uint32_t refused = deadline_of(of, one, started, &ends[i]);
      if (refused) put_event(&found, userdata, CLOCK_EVENT, refused, 0);
      if (ends[i] < first) first = ends[i];
    } else if (one[8] == READ_EVENT || one[8] == WRITE_EVENT) {
      const descriptor *const waited = wasi_find(of, fd);
      const uint64_t right = one[8] == READ_EVENT ? RIGHT_FD_READ : RIGHT_FD_WRITE;
      if (!waited)
        put_event(&found, userdata, one[8], ERRNO_BADF, 0);
      else if ((right | RIGHT_POLL_FD_READWRITE) & ~waited->rights)
        put_event(&found, userdata, one[8], ERRNO_NOTCAPABLE, 0);
      else if (available(waited, one[8], &bytes))
        put_event(&found, userdata, one[8], 0, bytes);
      else {
        memcpy(asked + (size_t)n_asked * SUBSCRIPTION, one, SUBSCRIPTION);
        store_u32(asked + (size_t)n_asked++ * SUBSCRIPTION + 16, waited->outer);
      }
    } else {
      errno = ERRNO_INVAL;
    }
  }
  while (!errno) {
    const uint64_t now = wasi_monotonic(of);
    const bool timed = first != UINT64_MAX;
    uint64_t left = timed && first > now ? first - now : 0;
    if (found.n) left = 0;
    const bool virtual = of->deterministic && timed && left;
    const uint64_t least = !n_asked ? 0 : virtual ? LONG_MOMENT : MOMENT;
    const uint64_t asked_left = virtual || left < least ? least : left;
    if (n_asked || (left && !virtual)) {
      uint32_t asking = n_asked;
      if (timed || found.n) put_clock(asked + (size_t)asking++ * SUBSCRIPTION, 0, asked_left);
      errno = ask_outer(asked, asking, &found);
    }
    if (!found.n && virtual && of->monotonic < first) of->monotonic = first; /* the sleep is over */
    const uint64_t later = wasi_monotonic(of);
    for (uint64_t i = 0; i < n; i++) {
      uint64_t userdata;
      memcpy(&userdata, from + i * SUBSCRIPTION, 8);
      if (ends[i] <= later) put_event(&found, userdata, CLOCK_EVENT, 0, 0);
    }
    if (found.n) break;
  }
  if (!errno) {
    const uint32_t most = found.n < n ? found.n : (uint32_t)n;
    memcpy(to, found.to, (size_t)most * EVENT);
    store_u32(count, most);
  }
  free(found.to);
  free(asked);
  free(ends);
  return errno;
}

/* ---- the table ---- */

uint32_t perform_call(wasi_state *of, uint32_t call, const uint64_t *given, span memory) {
  uint32_t errno = demanded(of, call, given);
  if (!errno) errno = permitted(of, call, given);
  if (!errno) errno = wrong_paths(of, call, given, memory);
  if (!errno) errno = wrong_arguments(call, given);
  if (!errno) errno = kept_as_it_is(of, call, given, memory);
  if (errno) return errno;
  descriptor *one;
  switch (call) {
    case CALL_args_get:
    case CALL_environ_get: return strings_get(of, call == CALL_environ_get, given, memory);
    case CALL_args_sizes_get:
    case CALL_environ_sizes_get:
      return strings_sizes(of, call == CALL_environ_sizes_get, given, memory);
    case CALL_clock_res_get: {
      uint8_t *const to = bytes_at(memory, given[1], 8);
      if ((uint32_t)given[0] > 3) return ERRNO_INVAL;
      if (to) store_u64(to, 1);
      return to ? 0 : ERRNO_FAULT;
    }
    case CALL_clock_time_get: return clock_time(of, given, memory);
    case CALL_random_get: return random_bytes(of, given, memory);
    case CALL_proc_exit: outer_proc_exit((int32_t)given[0]);
    case CALL_proc_raise: return raise_signal(given[0]);
    case CALL_fd_read: return fd_read_call(of, given, memory);
    case CALL_fd_write:
    case CALL_fd_pread:
    case CALL_fd_pwrite: return transfer(of, call, given, memory, false);
    case CALL_fd_close: return fd_close_call(of, given[0]);
    case CALL_fd_renumber: return fd_renumber_call(of, given);
    case CALL_fd_fdstat_get: return fdstat_get(of, given, memory);
    case CALL_fd_fdstat_set_flags: return fdstat_set_flags(of, given, memory);
    case CALL_fd_fdstat_set_rights: return set_rights(of, given);
    case CALL_fd_filestat_get: return filestat_get(of, given, memory);
    case CALL_fd_filestat_set_times:
      one = wasi_find(of, (uint32_t)given[0]);
      if (!one) return ERRNO_BADF;
      if ((errno = require(one, RIGHT_FD_FILESTAT_SET_TIMES))) return errno;
      if (is_stream(one)) return ERRNO_INVAL;
      errno = wrong_times(given[1], given[2], given[3]);
      return errno ? errno : set_times(of, call, given, memory, 1);
    case CALL_path_filestat_set_times: return set_times(of, call, given, memory, 4);
    case CALL_fd_allocate: return allocate_call(of, given, memory);
    case CALL_path_filestat_get: return path_filestat_call(of, given, memory);
    case CALL_path_link: return link_call(of, given, memory);
    case CALL_path_readlink: return readlink_call(of, given, memory);
    case CALL_path_symlink: return symlink_call(of, given, memory);
    case CALL_fd_seek:
    case CALL_fd_tell: return fd_seek_call(of, given, memory, call == CALL_fd_tell);
    case CALL_fd_sync:
    case CALL_fd_datasync:
      one = wasi_find(of, (uint32_t)given[0]);
      if (!one) return ERRNO_BADF;
      if (is_stream(one)) return ERRNO_INVAL;
      errno = require(one, call == CALL_fd_sync ? RIGHT_FD_SYNC : RIGHT_FD_DATASYNC);
      return errno ? errno : pass(of, call, given, memory);
    case CALL_fd_prestat_get: return prestat_get(of, given, memory);
    case CALL_fd_prestat_dir_name: return prestat_dir_name(of, given, memory);
    case CALL_fd_readdir: return readdir_call(of, given, memory);
    case CALL_path_open: return path_open_call(of, given, memory);
    case CALL_path_rename: return rename_call(of, given, memory);
    case CALL_poll_oneoff: return poll_call(of, given, memory);
    case CALL_sock_accept:
    case CALL_sock_recv:
    case CALL_sock_send:
    case CALL_sock_shutdown:
      return wasi_find(of, (uint32_t)given[0]) ? ERRNO_NOTSOCK : ERRNO_BADF; /* it has no sockets */
    default: return pass(of, call, given, memory);
  }
}
