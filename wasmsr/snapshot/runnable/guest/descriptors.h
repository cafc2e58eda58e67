/* What the program has of WASI preview 1: its arguments, clocks, random stream and descriptors. A
 * descriptor of the program is one of the outer engine's, with what only the program sees: its
 * number, rights, flags, and the listing that `fd_readdir` goes through. */
#ifndef DESCRIPTORS_H
#define DESCRIPTORS_H
#include "plain.h"

enum { FD_FREE, FD_STDIN, FD_STDOUT, FD_STDERR, FD_FILE, FD_DIRECTORY, FD_DEVICE };
enum { ACCESS_READ, ACCESS_WRITE, ACCESS_BOTH };
enum { MOST_DESCRIPTORS = 1 << 16 };
#define NO_OUTER UINT32_MAX
#define NO_ENTRIES UINT32_MAX

typedef struct {
  span name;
  uint64_t inode;
  uint32_t type;
} entry;

typedef struct {
  uint8_t kind;
  bool preopen;
  bool ended;    /* of standard input: nothing follows what is unread */
  bool has_file; /* of standard input: it was a regular file */
  uint32_t outer, flags, access, mount;
  uint64_t rights, inheriting;
  uint64_t offset, size; /* when it was saved; of standard input that is a file, also later */
  span path;             /* below the mount, without empty parts, `.` and `..` */
  span unread, before, after;
  entry *entries;
  uint32_t n_entries; /* or NO_ENTRIES */
} descriptor;

typedef struct {
  span name;
  uint32_t outer;
  uint64_t inheriting; /* rights of what is opened by it */
} mount;

typedef struct {
  bool deterministic, seeded, pending;
  uint64_t monotonic, cpu, stopped_at, position, started;
  uint8_t seed[32], call[16];
  span *strings[2]; /* arguments, environment */
  uint32_t n_strings[2];
  mount *mounts;
  uint32_t n_mounts;
  descriptor *table;
  uint32_t n_table;
  int64_t ahead, cpu_ahead; /* what our clocks show more than the outer engine's */
} wasi_state;

/* A folder that the outer engine has given, by its descriptor there. */
mount mount_of(uint32_t outer);
/* Read the part of WASI, and open everything anew; a sentence and the end where that cannot be. */
void wasi_open(wasi_state *of, const plain_state *state);
/* Write the part of WASI, as it is now. NULL, or what cannot be saved, about the descriptor `*fd`.
 */
const char *wasi_capture(wasi_state *of, buffer *to, uint32_t *fd);

/* The clocks, ns. */
uint64_t wasi_monotonic(const wasi_state *of);
uint64_t wasi_cpu(const wasi_state *of);
uint64_t wasi_realtime(const wasi_state *of);

descriptor *wasi_find(const wasi_state *of, uint32_t fd);
/* Put a descriptor under the lowest free number; UINT32_MAX if there are too many. */
uint32_t wasi_add(wasi_state *of, const descriptor *one);
/* A path below a mount, from a directory and what the program says. */
span path_join(span directory, span name);
/* Open by the outer engine. An errno. */
uint32_t open_outer(const mount *of, uint32_t base, bool follow, span path, uint32_t oflags,
                    uint32_t access, uint32_t fdflags, uint32_t *outer);
/* The kind of a descriptor of the outer engine: file, directory or device. */
uint8_t kind_of(uint32_t outer);
/* Read all entries of a directory. An errno. */
uint32_t list_outer(uint32_t outer, entry **entries, uint32_t *n);
bool is_reading(uint32_t access);
bool is_writing(uint32_t access);
#endif
