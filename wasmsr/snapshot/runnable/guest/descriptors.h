/* What the program has of WASI preview 1: its arguments, clocks, random stream and descriptors. A
 * descriptor of the program is one of the outer engine's, with what only the program sees: its
 * number, rights, flags, and the listing that `fd_readdir` goes through. */
#ifndef DESCRIPTORS_H
#define DESCRIPTORS_H
#include "plain.h"

enum { FD_FREE, FD_STDIN, FD_STDOUT, FD_STDERR, FD_FILE, FD_DIRECTORY, FD_DEVICE };
enum { ACCESS_READ, ACCESS_WRITE, ACCESS_BOTH };
/* What the program may do in a mount: all, nothing but read, or that of an input of a job, where a
 * file can be opened for writing and then not be written. */
enum { MOUNT_HOST, MOUNT_READ_ONLY, MOUNT_INPUT };
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
  span path;             /* below the mount, without links, empty parts, `.` and `..`; its own */
  span unread, before, after;
  entry *entries;     /* its own, as the names are */
  uint32_t n_entries; /* or NO_ENTRIES */
} descriptor;

typedef struct {
  span name;
  uint32_t outer, mode;
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
/* Where a path leads that the program names from a directory: below the mount, without links. The
 * last name is followed only if `follow`, or with a slash behind it. `left`, if given, is set if
 * the path goes above the directory. The caller frees what is returned. */
span path_resolve(const mount *of, span directory, span name, bool follow, bool *left);
span copied(span bytes);
/* Give up what a descriptor has of its own, but for the outer engine's descriptor. */
void descriptor_free(descriptor *one);
/* Note bytes that the program got from standard input, which is a file. */
void note_input(descriptor *one, const uint8_t *data, size_t size);
/* Open by the outer engine. An errno. */
uint32_t open_outer(const mount *of, uint32_t base, bool follow, span path, uint32_t oflags,
                    uint32_t access, uint32_t fdflags, uint32_t *outer);
/* Take away a listing. */
void entries_free(descriptor *one);
/* The kind of a descriptor of the outer engine: file, directory or device. */
uint8_t kind_of(uint32_t outer);
/* Read all entries of a directory: `.` and `..`, then the others by their bytes. An errno. */
uint32_t list_outer(uint32_t outer, entry **entries, uint32_t *n);
bool is_reading(uint32_t access);
bool is_writing(uint32_t access);
#endif
