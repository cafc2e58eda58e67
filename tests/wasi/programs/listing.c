/* Listing a directory by cookies, while entries come and go. */
#include "check.h"

enum { FILES = 40, NAMES = FILES + 2 };

static uint8_t buffer[4096];

static const char *name_of(unsigned number) {
  static char name[16] = "entry-00";
  name[6] = (char)('0' + number / 10);
  name[7] = (char)('0' + number % 10);
  return name;
}

/* Goes through the listing from `cookie` with a buffer of `size`; counts the entries, and each
 * name's appearances in `seen`. Answers the last cookie. */
static __wasi_dircookie_t list(__wasi_fd_t fd, __wasi_dircookie_t cookie, __wasi_size_t size,
                               unsigned most, unsigned *entries, uint8_t seen[FILES]) {
  for (*entries = 0; *entries < most;) {
    __wasi_size_t used = 0, at = 0;
    OK(__wasi_fd_readdir(fd, buffer, size, cookie, &used));
    CHECK(used <= size);
    while (at + sizeof(__wasi_dirent_t) <= used && *entries < most) {
      __wasi_dirent_t entry;
      memcpy(&entry, buffer + at, sizeof entry);
      const char *name = (const char *)buffer + at + sizeof entry;
      if (at + sizeof entry + entry.d_namlen > used) break; /* cut: again from the last cookie */
      at += sizeof entry + entry.d_namlen;
      cookie = entry.d_next;
      ++*entries;
      if (entry.d_namlen == 8 && !memcmp(name, "entry-", 6)) {
        unsigned number = (unsigned)(name[6] - '0') * 10 + (unsigned)(name[7] - '0');
        CHECK(number < FILES && entry.d_type == __WASI_FILETYPE_REGULAR_FILE && entry.d_ino);
        seen[number]++;
      } else if (name[0] == '.') {
        CHECK(entry.d_namlen <= 2 && entry.d_type == __WASI_FILETYPE_DIRECTORY);
      }
    }
    if (used < size) break;
    CHECK(at); /* there was room for one entry at least */
  }
  return cookie;
}

int main(void) {
  unsigned entries, i;
  __wasi_size_t used;
  uint8_t seen[FILES] = {0};
  OK(__wasi_path_create_directory(ROOT, "d"));
  __wasi_fd_t d = opened("d", __WASI_OFLAGS_DIRECTORY), fd;
  list(d, 0, sizeof buffer, NAMES, &entries, seen);
  CHECK(entries == 2);
  for (i = 0; i < FILES; i++) {
    OK(__wasi_path_open(d, 0, name_of(i), __WASI_OFLAGS_CREAT, ALL_RIGHTS, 0, 0, &fd));
    OK(__wasi_fd_close(fd));
  }
  list(d, 0, sizeof buffer, NAMES, &entries, seen);
  CHECK(entries == NAMES);
  for (i = 0; i < FILES; i++) CHECK(seen[i] == 1);
  /* In small pieces. */
  memset(seen, 0, sizeof seen);
  list(d, 0, 50, NAMES + 1, &entries, seen);
  CHECK(entries == NAMES);
  for (i = 0; i < FILES; i++) CHECK(seen[i] == 1);
  /* Half of it, then entries come and go: those that were there all the time appear once. */
  memset(seen, 0, sizeof seen);
  __wasi_dircookie_t half = list(d, 0, 200, NAMES / 2, &entries, seen);
  CHECK(entries == NAMES / 2);
  OK(__wasi_path_unlink_file(d, name_of(0)));
  OK(__wasi_path_unlink_file(d, name_of(FILES - 1)));
  OK(__wasi_path_open(d, 0, "another", __WASI_OFLAGS_CREAT, ALL_RIGHTS, 0, 0, &fd));
  OK(__wasi_fd_close(fd));
  list(d, half, 200, NAMES, &entries, seen);
  for (i = 1; i < FILES - 1; i++) CHECK(seen[i] == 1);
  /* From the start again it is as it is now. */
  memset(seen, 0, sizeof seen);
  list(d, 0, sizeof buffer, NAMES + 1, &entries, seen);
  CHECK(entries == NAMES - 1 && !seen[0] && !seen[FILES - 1]);
  /* A cookie leads back to the same place, and past the end is nothing. */
  uint8_t again[FILES] = {0};
  list(d, half, sizeof buffer, NAMES, &entries, again);
  OK(__wasi_fd_readdir(d, buffer, sizeof buffer, 100000, &used));
  CHECK(used == 0);
  OK(__wasi_fd_readdir(d, buffer, 0, 0, &used));
  CHECK(used == 0);
  FAILS(BADF, __wasi_fd_readdir(NONE, buffer, 100, 0, &used));
  fd = opened("d/entry-05", 0);
  FAILS(NOTDIR, __wasi_fd_readdir(fd, buffer, 100, 0, &used));
  FAILS(FAULT, __wasi_fd_readdir(d, (uint8_t *)0xffffff00, 4096, 0, &used));
  return 0;
}
