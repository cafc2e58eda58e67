/* The state of WASI: opened by the outer engine, and captured. */
#include "descriptors.h"

#include <stdlib.h>
#include <string.h>

#include "wasi_calls.h"

enum {
  SNAPSHOT_ERROR = 123,
  USAGE = 2,
  CHARACTER_TYPE = 2,
  DIRECTORY_TYPE = 3,
  REGULAR_TYPE = 4,
  WINDOW = 4096
};
enum { MOST_LINKS = 40, MOST_KEPT = 64 << 20 };
enum { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_CPU };
#define FIRST_INSTANT UINT64_C(1000000000)
#define VIRTUAL_EPOCH UINT64_C(1577836800000000000)

static int32_t at(const void *pointer) { return (int32_t)(uintptr_t)pointer; }

bool is_reading(uint32_t access) { return access != ACCESS_WRITE; }
bool is_writing(uint32_t access) { return access != ACCESS_READ; }

/* ---- clocks ---- */

static uint64_t outer_clock(uint32_t clock) {
  uint64_t now = 0;
  if (outer_clock_time_get((int32_t)clock, 1, at(&now)) && clock != CLOCK_MONOTONIC)
    outer_clock_time_get(CLOCK_MONOTONIC, 1, at(&now)); /* not every engine has all clocks */
  return now;
}

uint64_t wasi_monotonic(const wasi_state *of) {
  return of->deterministic ? of->monotonic : outer_clock(CLOCK_MONOTONIC) + (uint64_t)of->ahead;
}

uint64_t wasi_cpu(const wasi_state *of) {
  return of->deterministic ? of->monotonic - FIRST_INSTANT
                           : outer_clock(CLOCK_CPU) + (uint64_t)of->cpu_ahead;
}

uint64_t wasi_realtime(const wasi_state *of) {
  return of->deterministic ? VIRTUAL_EPOCH + of->monotonic - FIRST_INSTANT
                           : outer_clock(CLOCK_REALTIME);
}

/* ---- the table ---- */

descriptor *wasi_find(const wasi_state *of, uint32_t fd) {
  return fd < of->n_table && of->table[fd].kind ? of->table + fd : NULL;
}

static descriptor *make_room(wasi_state *of, uint32_t fd) {
  if (fd >= of->n_table) {
    const uint32_t room = fd + 16;
    descriptor *const grown = realloc(of->table, room * sizeof *grown);
    if (!grown) fail(1, "the engine has too little memory for the program");
    memset(grown + of->n_table, 0, (room - of->n_table) * sizeof *grown);
    of->table = grown;
    of->n_table = room;
  }
  return of->table + fd;
}

uint32_t wasi_add(wasi_state *of, const descriptor *one) {
  uint32_t fd = 0;
  while (fd < of->n_table && of->table[fd].kind) fd++;
  if (fd >= MOST_DESCRIPTORS) return UINT32_MAX;
  *make_room(of, fd) = *one;
  return fd;
}

/* ---- paths ---- */

span copied(span bytes) {
  uint8_t *const to = allocate(bytes.size, 1);
  if (bytes.size) memcpy(to, bytes.data, bytes.size);
  return (span){to, bytes.size};
}

/* Take the next name of a path, and the slashes around it. */
static span next_name(span *path) {
  while (path->size && path->data[0] == '/') *path = (span){path->data + 1, path->size - 1};
  size_t end = 0;
  while (end < path->size && path->data[end] != '/') end++;
  const span name = {path->data, end};
  *path = (span){path->data + end, path->size - end};
  return name;
}

static size_t without_last(const uint8_t *path, size_t size) {
  while (size && path[size - 1] != '/') size--;
  return size ? size - 1 : 0;
}

span path_resolve(const mount *of, span directory, span name, bool follow, bool *left) {
  buffer found = {0}, waiting = {0};
  put_bytes(&found, directory.data, directory.size);
  put_bytes(&waiting, name.data, name.size);
  span rest = {waiting.data, waiting.size};
  uint8_t target[4096];
  for (int links = 0; rest.size;) {
    const span part = next_name(&rest);
    if (!part.size || (part.size == 1 && part.data[0] == '.')) continue;
    if (part.size == 2 && part.data[0] == '.' && part.data[1] == '.') {
      if (left && found.size <= directory.size) *left = true;
      found.size = without_last(found.data, found.size);
      continue;
    }
    const size_t parent = found.size;
    if (parent) put_bytes(&found, "/", 1);
    put_bytes(&found, part.data, part.size);
    uint32_t length = 0;
    if ((!rest.size && !follow) || links == MOST_LINKS ||
        outer_path_readlink((int32_t)of->outer, at(found.data), (int32_t)found.size, at(target),
                            sizeof target, at(&length)) ||
        !length || length >= sizeof target || target[0] == '/')
      continue;
    links++;
    found.size = parent;
    buffer longer = {0};
    put_bytes(&longer, target, length);
    put_bytes(&longer, rest.data, rest.size);
    free(waiting.data);
    waiting = longer;
    rest = (span){waiting.data, waiting.size};
  }
  free(waiting.data);
  return (span){found.data, found.size};
}

/* ---- the outer engine's files ---- */

/* Writing needs rights that an engine takes for a wish to write; so a file that is only read is
 * opened without them. */
#define WRITING                                                                         \
  (RIGHT_FD_WRITE | RIGHT_FD_DATASYNC | RIGHT_FD_ALLOCATE | RIGHT_FD_FILESTAT_SET_SIZE)

uint32_t open_outer(const mount *of, uint32_t base, bool follow, span path, uint32_t oflags,
                    uint32_t access, uint32_t fdflags, uint32_t *outer) {
  uint64_t rights = RIGHTS_ALL & of->inheriting;
  if (!is_reading(access)) rights &= ~(RIGHT_FD_READ | RIGHT_FD_READDIR);
  if (!is_writing(access)) rights &= ~WRITING;
  if (oflags & 2) rights &= ~(WRITING | RIGHT_FD_READ) | RIGHT_FD_READDIR;
  const uint32_t errno = (uint32_t)outer_path_open(
      (int32_t)base, follow, at(path.data), (int32_t)path.size, (int32_t)oflags, (int64_t)rights,
      (int64_t)of->inheriting, (int32_t)fdflags, at(outer));
  return errno == ERRNO_NOTCAPABLE ? (uint32_t)ERRNO_PERM : errno; /* it leaves its mount */
}

typedef struct {
  uint8_t type;
  uint16_t flags;
  uint64_t rights, inheriting;
} fdstat;

typedef struct {
  uint64_t device, inode;
  uint8_t type;
  uint64_t links, size, accessed, modified, changed;
} filestat;

uint8_t kind_of(uint32_t outer) {
  fdstat found = {0};
  outer_fd_fdstat_get((int32_t)outer, at(&found));
  return found.type == DIRECTORY_TYPE ? FD_DIRECTORY
         : found.type == REGULAR_TYPE ? FD_FILE
                                      : FD_DEVICE;
}

void entries_free(descriptor *one) {
  if (one->n_entries == NO_ENTRIES) return;
  for (uint32_t i = 0; i < one->n_entries; i++) free((void *)one->entries[i].name.data);
  free(one->entries);
  one->entries = NULL;
  one->n_entries = NO_ENTRIES;
}

void descriptor_free(descriptor *one) {
  entries_free(one);
  free((void *)one->path.data);
  *one = (descriptor){0};
}

static int by_bytes(const void *first, const void *second) {
  const span one = ((const entry *)first)->name, other = ((const entry *)second)->name;
  const int found = memcmp(one.data, other.data, one.size < other.size ? one.size : other.size);
  return found ? found : (one.size > other.size) - (one.size < other.size);
}

static bool is_dots(const uint8_t *name, uint32_t size) {
  return size && size < 3 && name[0] == '.' && name[size - 1] == '.';
}

static void put_entry(buffer *to, const uint8_t *name, uint32_t size, uint64_t inode,
                      uint8_t type) {
  const entry one = {copied((span){name, size}), inode, type};
  put_bytes(to, &one, sizeof one);
}

uint32_t list_outer(uint32_t outer, entry **entries, uint32_t *n) {
  enum { HEAD = 24 };
  size_t room = 1 << 16;
  uint8_t *page = allocate(room, 1);
  buffer found = {0};
  uint64_t cookie = 0;
  filestat own = {0};
  outer_fd_filestat_get((int32_t)outer, at(&own));
  put_entry(&found, (const uint8_t *)".", 1, own.inode, DIRECTORY_TYPE);
  put_entry(&found, (const uint8_t *)"..", 2, 0, DIRECTORY_TYPE);
  for (;;) {
    uint32_t used = 0;
    const uint32_t errno = (uint32_t)outer_fd_readdir((int32_t)outer, at(page), (int32_t)room,
                                                      (int64_t)cookie, at(&used));
    if (errno) {
      descriptor gone = {.entries = (entry *)(void *)found.data,
                         .n_entries = (uint32_t)(found.size / sizeof(entry))};
      entries_free(&gone);
      free(page);
      return errno;
    }
    size_t place = 0;
    while (used - place >= HEAD) {
      uint64_t next, inode;
      uint32_t length;
      memcpy(&next, page + place, 8);
      memcpy(&inode, page + place + 8, 8);
      memcpy(&length, page + place + 16, 4);
      if (length > used - place - HEAD) break;
      const uint8_t *const name = page + place + HEAD;
      /* Not every engine lists these two, and the one above may be outside of the mount. */
      if (!is_dots(name, length)) put_entry(&found, name, length, inode, page[place + 20]);
      cookie = next;
      place += HEAD + length;
    }
    if (used < room) break;
    if (!place) { /* one name is longer than the page */
      free(page);
      page = allocate(room *= 2, 1);
    }
  }
  free(page);
  *entries = (entry *)(void *)found.data;
  *n = (uint32_t)(found.size / sizeof **entries);
  qsort(*entries + 2, *n - 2, sizeof **entries, by_bytes);
  return 0;
}

mount mount_of(uint32_t outer) {
  fdstat found = {0};
  outer_fd_fdstat_get((int32_t)outer, at(&found));
  const uint64_t rights = found.inheriting & RIGHTS_ALL;
  return (mount){.outer = outer, .inheriting = rights ? rights : RIGHTS_ALL};
}

/* ---- the way in ---- */

static void find_mounts(wasi_state *of) {
  for (uint32_t i = 0; i < of->n_mounts; i++) of->mounts[i].outer = NO_OUTER;
  for (uint32_t fd = 3;; fd++) {
    uint32_t prestat[2];
    if (outer_fd_prestat_get((int32_t)fd, at(prestat))) break;
    uint8_t *const name = allocate(prestat[1] + 1, 1);
    outer_fd_prestat_dir_name((int32_t)fd, at(name), (int32_t)prestat[1]);
    size_t size = prestat[1];
    if (size && !name[size - 1]) size--; /* some engines count a zero byte */
    for (uint32_t i = 0; i < of->n_mounts; i++)
      if (of->mounts[i].outer == NO_OUTER && of->mounts[i].name.size == size &&
          !memcmp(of->mounts[i].name.data, name, size)) {
        const mount before = of->mounts[i];
        of->mounts[i] = mount_of(fd);
        of->mounts[i].name = before.name;
        of->mounts[i].mode = before.mode;
      }
    free(name);
  }
  for (uint32_t i = 0; i < of->n_mounts; i++)
    if (of->mounts[i].outer == NO_OUTER)
      fail_about(USAGE, "the program has the folder ", of->mounts[i].name,
                 ", which was not given: add it with the engine's option (wasmtime run --dir "
                 "HOST::NAME)");
}

static size_t read_around(uint32_t outer, uint64_t offset, uint8_t *to, size_t size) {
  size_t done = 0;
  while (done < size) {
    const uint32_t vector[2] = {(uint32_t)at(to + done), (uint32_t)(size - done)};
    uint32_t got = 0;
    if (outer_fd_pread((int32_t)outer, at(vector), 1, (int64_t)(offset + done), at(&got)) || !got)
      break;
    done += got;
  }
  return done;
}

static bool same_window(uint32_t outer, uint64_t offset, span window) {
  uint8_t *const found = allocate(window.size, 1);
  const bool same = read_around(outer, offset, found, window.size) == window.size &&
                    !memcmp(found, window.data, window.size);
  free(found);
  return same;
}

static bool same_file(uint32_t outer, const descriptor *one) {
  return same_window(outer, one->offset - one->before.size, one->before) &&
         same_window(outer, one->offset, one->after);
}

static span named(const descriptor *one) {
  return one->path.size ? one->path : (span){(const uint8_t *)".", 1};
}

/* What looks at the content of an open file: itself, or one more if it is only written. NO_OUTER
 * where it may not be read. */
static uint32_t open_to_look(const mount *place, const descriptor *one) {
  if (is_reading(one->access)) return one->outer;
  uint32_t found = NO_OUTER;
  return open_outer(place, place->outer, false, one->path, 0, ACCESS_READ, 0, &found) ? NO_OUTER
                                                                                      : found;
}

static void close_after_look(const descriptor *one, uint32_t looked) {
  if (looked != one->outer && looked != NO_OUTER) outer_fd_close((int32_t)looked);
}

static void reopen(wasi_state *of, descriptor *one) {
  const mount *const place = of->mounts + one->mount;
  if (one->preopen) {
    one->outer = place->outer;
    return;
  }
  const uint32_t oflags = one->kind == FD_DIRECTORY ? 2 : 0;
  const uint32_t access = place->mode == MOUNT_HOST ? one->access : ACCESS_READ;
  /* A link in its path is not one that the program went by. */
  const span now = path_resolve(place, (span){NULL, 0}, one->path, true, NULL);
  if (now.size != one->path.size || (now.size && memcmp(now.data, one->path.data, now.size)))
    fail_about(SNAPSHOT_ERROR, "there is a link on the way to ", one->path,
               ", which the program has open; is its folder the right one?");
  free((void *)now.data);
  if (open_outer(place, place->outer, false, named(one), oflags, access, one->flags, &one->outer))
    fail_about(SNAPSHOT_ERROR, "the file ", named(one),
               ", which the program has open, cannot be opened; is its folder the right one?");
  if (kind_of(one->outer) != one->kind)
    fail_about(SNAPSHOT_ERROR, "the file ", named(one), " is another kind of file now");
  if (one->kind != FD_FILE) return;
  filestat found = {0};
  outer_fd_filestat_get((int32_t)one->outer, at(&found));
  if (found.size < one->size)
    fail_about(SNAPSHOT_ERROR, "the file ", one->path,
               " is shorter than when the program was saved");
  const uint32_t looked = open_to_look(place, one);
  if (looked != NO_OUTER && !same_file(looked, one))
    fail_about(SNAPSHOT_ERROR, "the file ", one->path,
               ", which the program has open, is another one now");
  close_after_look(one, looked);
  uint64_t now_at;
  if (outer_fd_seek((int32_t)one->outer, (int64_t)one->offset, 0, at(&now_at)))
    fail_about(SNAPSHOT_ERROR, "the file ", one->path, " cannot be set to where the program was");
}

/* What a program wrote after it was saved did not happen. */
static void cut(const wasi_state *of, const descriptor *one) {
  filestat found = {0};
  if (one->kind != FD_FILE || !is_writing(one->access)) return;
  if (of->mounts[one->mount].mode != MOUNT_HOST) return;
  outer_fd_filestat_get((int32_t)one->outer, at(&found));
  if (found.size > one->size && outer_fd_filestat_set_size((int32_t)one->outer, (int64_t)one->size))
    fail_about(SNAPSHOT_ERROR, "the file ", one->path,
               ", which has grown since the program was saved, cannot be cut");
}

/* ---- standard input ---- */

void note_input(descriptor *one, const uint8_t *data, size_t size) {
  static uint8_t window[WINDOW];
  const size_t taken = size < WINDOW ? size : WINDOW;
  const size_t room = WINDOW - taken;
  const size_t kept = one->before.size < room ? one->before.size : room;
  if (kept) memmove(window, one->before.data + one->before.size - kept, kept);
  memcpy(window + kept, data + size - taken, taken);
  one->before = (span){window, kept + taken};
  const size_t passed = size < one->after.size ? size : one->after.size;
  one->after = (span){one->after.data + passed, one->after.size - passed};
  one->offset += size;
}

/* Read as much of standard input as the program has read of a file, and look whether it is that
 * file. What is read is kept, because another input is read from its beginning. */
static void read_to_offset(descriptor *one) {
  enum { PIECE = 1 << 16 };
  const bool keeping = one->offset <= MOST_KEPT;
  buffer kept = {0};
  uint8_t *const page = allocate(1, PIECE);
  descriptor seen = {0};
  while (seen.offset < one->offset) {
    const uint64_t left = one->offset - seen.offset;
    const uint32_t vector[2] = {(uint32_t)at(page), left < PIECE ? (uint32_t)left : PIECE};
    uint32_t got = 0;
    if (outer_fd_read(0, at(vector), 1, at(&got)) || !got) break;
    note_input(&seen, page, got);
    if (keeping) put_bytes(&kept, page, got);
  }
  free(page);
  const span end = one->before;
  if (seen.offset == one->offset && seen.before.size >= end.size &&
      !memcmp(seen.before.data + seen.before.size - end.size, end.data, end.size)) {
    free(kept.data);
    return;
  }
  if (!keeping)
    fail(SNAPSHOT_ERROR, "standard input is another one than the file that the program has read");
  one->has_file = false;
  buffer unread = {0};
  put_bytes(&unread, one->unread.data, one->unread.size);
  put_bytes(&unread, kept.data, kept.size);
  free(kept.data);
  one->unread = (span){unread.data, unread.size};
}

/* Standard input that was a file goes on where it was, if it is that file; as a resume does it. */
static void skip_input(descriptor *one) {
  if (!one->has_file) return;
  fdstat type = {0};
  filestat found = {0};
  uint64_t now;
  outer_fd_fdstat_get(0, at(&type));
  if (type.type == CHARACTER_TYPE) {
    one->has_file = false;
  } else if (type.type == REGULAR_TYPE) {
    outer_fd_filestat_get(0, at(&found));
    if (found.size >= one->size && same_file(0, one))
      outer_fd_seek(0, (int64_t)one->offset, 0, at(&now));
  } else {
    read_to_offset(one); /* some engines do not tell a file from a pipe */
  }
}

static void read_descriptor(wasi_state *of, reader *from) {
  const uint32_t fd = read_u32(from);
  descriptor one = {.outer = NO_OUTER, .n_entries = NO_ENTRIES};
  one.kind = (uint8_t)read_u32(from);
  one.flags = read_u32(from);
  one.rights = read_u64(from);
  one.inheriting = read_u64(from);
  one.mount = read_u32(from);
  const span path = read_string(from);
  one.access = read_u32(from);
  one.offset = read_u64(from);
  one.size = read_u64(from);
  one.preopen = read_u32(from) != 0;
  one.unread = read_string(from);
  one.ended = read_u32(from) != 0;
  one.has_file = read_u32(from) != 0;
  one.before = read_string(from);
  one.after = read_string(from);
  if (read_u32(from)) {
    const uint32_t n = read_count(from, 16);
    one.n_entries = n;
    one.entries = allocate(n, sizeof *one.entries);
    for (uint32_t i = 0; i < n; i++) {
      one.entries[i].name = copied(read_string(from));
      one.entries[i].inode = read_u64(from);
      one.entries[i].type = read_u32(from);
    }
  }
  const bool in_mount = one.kind >= FD_FILE;
  if (from->bad || fd >= MOST_DESCRIPTORS || one.kind == FD_FREE || one.kind > FD_DEVICE ||
      (in_mount && one.mount >= of->n_mounts) || one.access > ACCESS_BOTH ||
      one.before.size > one.offset)
    fail(SNAPSHOT_ERROR, "the state in this file is damaged: descriptors");
  one.path = copied(path);
  *make_room(of, fd) = one;
}

void wasi_open(wasi_state *of, const plain_state *state) {
  *of = (wasi_state){0};
  reader from = read_part(state, PART_WASI);
  of->deterministic = read_u32(&from) != 0;
  of->seeded = read_u32(&from) != 0;
  of->monotonic = read_u64(&from);
  of->cpu = read_u64(&from);
  of->stopped_at = read_u64(&from);
  memcpy(of->seed, read_bytes(&from, 32).data, from.bad ? 0 : 32);
  of->position = read_u64(&from);
  of->pending = read_u32(&from) != 0;
  memcpy(of->call, read_bytes(&from, 16).data, from.bad ? 0 : 16);
  of->started = read_u64(&from);
  for (int kind = 0; kind < 2; kind++) {
    of->n_strings[kind] = read_count(&from, 4);
    of->strings[kind] = allocate(of->n_strings[kind], sizeof(span));
    for (uint32_t i = 0; i < of->n_strings[kind]; i++) of->strings[kind][i] = read_string(&from);
  }
  of->n_mounts = read_count(&from, 8);
  of->mounts = allocate(of->n_mounts, sizeof *of->mounts);
  for (uint32_t i = 0; i < of->n_mounts; i++) {
    of->mounts[i].name = read_string(&from);
    of->mounts[i].mode = read_u32(&from);
  }
  for (uint32_t i = 0; i < of->n_mounts; i++) from.bad |= of->mounts[i].mode > MOUNT_INPUT;
  const uint32_t n = read_count(&from, 80);
  if (from.bad) fail(SNAPSHOT_ERROR, "the state in this file is damaged: WASI");
  for (uint32_t i = 0; i < n; i++) read_descriptor(of, &from);
  if (from.bad || from.at != from.end)
    fail(SNAPSHOT_ERROR, "the state in this file is damaged: WASI");

  find_mounts(of);
  for (uint32_t fd = 0; fd < of->n_table; fd++) {
    descriptor *const one = of->table + fd;
    if (one->kind == FD_STDIN) skip_input(one);
    if (one->kind == FD_STDIN || one->kind == FD_STDOUT || one->kind == FD_STDERR)
      one->outer = one->kind - FD_STDIN;
    if (one->kind >= FD_FILE) reopen(of, one);
  }
  for (uint32_t fd = 0; fd < of->n_table; fd++)
    cut(of, of->table + fd); /* when all could be opened */
  of->ahead = (int64_t)(of->monotonic - outer_clock(CLOCK_MONOTONIC));
  of->cpu_ahead = (int64_t)(of->cpu - outer_clock(CLOCK_CPU));
}

/* ---- the way out ---- */

static bool is_where_it_was(const wasi_state *of, const descriptor *one) {
  const mount *const place = of->mounts + one->mount;
  const span asked = named(one);
  filestat open = {0}, there = {0};
  return !outer_fd_filestat_get((int32_t)one->outer, at(&open)) &&
         !outer_path_filestat_get((int32_t)place->outer, 0, at(asked.data), (int32_t)asked.size,
                                  at(&there)) &&
         open.device == there.device && open.inode == there.inode;
}

static bool is_character(uint32_t outer) {
  fdstat found = {0};
  outer_fd_fdstat_get((int32_t)outer, at(&found));
  return found.type == CHARACTER_TYPE;
}

static void put_descriptor(uint32_t fd, const descriptor *one, buffer *to) {
  put_u32(to, fd);
  put_u32(to, one->kind);
  put_u32(to, one->flags);
  put_u64(to, one->rights);
  put_u64(to, one->inheriting);
  put_u32(to, one->mount);
  put_string(to, one->path);
  put_u32(to, one->access);
  put_u64(to, one->offset);
  put_u64(to, one->size);
  put_u32(to, one->preopen);
  put_string(to, one->unread);
  put_u32(to, one->ended);
  put_u32(to, one->has_file);
  put_string(to, one->before);
  put_string(to, one->after);
  put_u32(to, one->n_entries != NO_ENTRIES);
  if (one->n_entries == NO_ENTRIES) return;
  put_u32(to, one->n_entries);
  for (uint32_t i = 0; i < one->n_entries; i++) {
    put_string(to, one->entries[i].name);
    put_u64(to, one->entries[i].inode);
    put_u32(to, one->entries[i].type);
  }
}

/* Offset, size, and the bytes around the offset, which are good until the next call. */
static void look_at_file(descriptor *one, uint32_t looked) {
  static uint8_t bytes[2 * WINDOW];
  filestat found = {0};
  outer_fd_tell((int32_t)one->outer, at(&one->offset));
  outer_fd_filestat_get((int32_t)one->outer, at(&found));
  one->size = found.size;
  one->before = one->after = (span){NULL, 0};
  if (looked == NO_OUTER) return;
  const size_t before = one->offset < WINDOW ? (size_t)one->offset : WINDOW;
  const size_t got = read_around(looked, one->offset - before, bytes, before);
  if (got == before) one->before = (span){bytes, before};
  one->after = (span){bytes + WINDOW, read_around(looked, one->offset, bytes + WINDOW, WINDOW)};
}

static void look_at_input(descriptor *one) {
  if (one->ended || kind_of(one->outer) != FD_FILE) return; /* what is known of it was counted */
  one->has_file = true;
  look_at_file(one, one->outer);
}

static void look_at_open_file(const wasi_state *of, descriptor *one) {
  const uint32_t looked = open_to_look(of->mounts + one->mount, one);
  look_at_file(one, looked);
  close_after_look(one, looked);
}

const char *wasi_capture(wasi_state *of, buffer *to, uint32_t *number) {
  put_u32(to, of->deterministic);
  put_u32(to, of->seeded);
  put_u64(to, wasi_monotonic(of));
  put_u64(to, of->deterministic ? of->cpu : wasi_cpu(of));
  put_u64(to, wasi_realtime(of));
  put_bytes(to, of->seed, 32);
  put_u64(to, of->position);
  put_u32(to, of->pending);
  put_bytes(to, of->call, 16);
  put_u64(to, of->started);
  for (int kind = 0; kind < 2; kind++) {
    put_u32(to, of->n_strings[kind]);
    for (uint32_t i = 0; i < of->n_strings[kind]; i++) put_string(to, of->strings[kind][i]);
  }
  put_u32(to, of->n_mounts);
  for (uint32_t i = 0; i < of->n_mounts; i++) {
    put_string(to, of->mounts[i].name);
    put_u32(to, of->mounts[i].mode);
  }
  uint32_t n = 0;
  for (uint32_t fd = 0; fd < of->n_table; fd++) n += of->table[fd].kind != FD_FREE;
  put_u32(to, n);
  for (uint32_t fd = 0; fd < of->n_table; fd++) {
    descriptor *const one = of->table + fd;
    if (!one->kind) continue;
    *number = fd;
    if (one->kind >= FD_FILE && !one->preopen && !is_where_it_was(of, one))
      return "was opened by a name that now is another file's or none";
    if (one->kind == FD_DEVICE && !is_character(one->outer))
      return "is a device or FIFO, which cannot be saved";
    if (one->kind == FD_FILE) look_at_open_file(of, one);
    if (one->kind == FD_STDIN) look_at_input(one);
    put_descriptor(fd, one, to);
  }
  return NULL;
}
