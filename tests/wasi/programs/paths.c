/* Names: directories, links of both kinds, renaming, removing, attributes, times. */
#include "check.h"

static const __wasi_lookupflags_t FOLLOW = __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW;

static __wasi_filestat_t status(const char *path, __wasi_lookupflags_t follow) {
  __wasi_filestat_t found;
  OK(__wasi_path_filestat_get(ROOT, follow, path, &found));
  return found;
}

static void directories(void) {
  OK(__wasi_path_create_directory(ROOT, "d"));
  OK(__wasi_path_create_directory(ROOT, "d/e/"));
  FAILS(EXIST, __wasi_path_create_directory(ROOT, "d"));
  FAILS(NOENT, __wasi_path_create_directory(ROOT, "none/d"));
  make_file("f", "content");
  FAILS(NOTDIR, __wasi_path_create_directory(ROOT, "f/d"));
  FAILS(NOTEMPTY, __wasi_path_remove_directory(ROOT, "d"));
  FAILS(NOTDIR, __wasi_path_remove_directory(ROOT, "f"));
  FAILS(NOENT, __wasi_path_remove_directory(ROOT, "none"));
  FAILS(ISDIR, __wasi_path_unlink_file(ROOT, "d"));
  OK(__wasi_path_remove_directory(ROOT, "d/e"));
  CHECK(status("d", 0).filetype == __WASI_FILETYPE_DIRECTORY);
  CHECK(status("d/../f", 0).ino == status("./f", 0).ino);
}

static void symbolic_links(void) {
  uint8_t text[32] = {0};
  __wasi_size_t size;
  __wasi_fd_t fd;
  OK(__wasi_path_symlink("f", ROOT, "l"));
  OK(__wasi_path_symlink("../f", ROOT, "d/up"));
  OK(__wasi_path_symlink("loop", ROOT, "loop"));
  OK(__wasi_path_symlink("nowhere", ROOT, "dangling"));
  OK(__wasi_path_symlink("../outside", ROOT, "escape"));
  FAILS(EXIST, __wasi_path_symlink("x", ROOT, "l"));
  FAILS(NOENT, __wasi_path_symlink("x", ROOT, "none/l"));
  FAILS(PERM, __wasi_path_symlink("/absolute", ROOT, "a"));
  OK(__wasi_path_readlink(ROOT, "d/up", text, sizeof text, &size));
  CHECK(size == 4 && !memcmp(text, "../f", 5));
  OK(__wasi_path_readlink(ROOT, "d/up", text + 10, 2, &size));
  CHECK(size == 2 && !memcmp(text + 10, "..\0", 3));
  FAILS(INVAL, __wasi_path_readlink(ROOT, "f", text, sizeof text, &size));
  FAILS(NOENT, __wasi_path_readlink(ROOT, "none", text, sizeof text, &size));
  CHECK(status("l", 0).filetype == __WASI_FILETYPE_SYMBOLIC_LINK);
  CHECK(status("l", FOLLOW).ino == status("f", 0).ino);
  CHECK(status("d/up", FOLLOW).ino == status("f", 0).ino);
  __wasi_filestat_t found;
  FAILS(LOOP, __wasi_path_filestat_get(ROOT, FOLLOW, "loop", &found));
  FAILS(NOENT, __wasi_path_filestat_get(ROOT, FOLLOW, "dangling", &found));
  FAILS(PERM, __wasi_path_filestat_get(ROOT, FOLLOW, "escape", &found));
  FAILS(PERM, __wasi_path_filestat_get(ROOT, 0, "..", &found));
  FAILS(PERM, __wasi_path_filestat_get(ROOT, 0, "/data/f", &found));
  FAILS(INVAL, __wasi_path_filestat_get(ROOT, 2, "f", &found));
  FAILS(LOOP, __wasi_path_open(ROOT, 0, "l", 0, 0, 0, 0, &fd)); /* not to be followed */
  OK(__wasi_path_open(ROOT, FOLLOW, "dangling", __WASI_OFLAGS_CREAT, ALL_RIGHTS, 0, 0, &fd));
  OK(__wasi_fd_close(fd));
  CHECK(exists("nowhere"));
  FAILS(NOTDIR, __wasi_path_remove_directory(ROOT, "l"));
  OK(__wasi_path_unlink_file(ROOT, "dangling"));
  CHECK(exists("nowhere"));
}

static void hard_links(void) {
  OK(__wasi_path_link(ROOT, 0, "f", ROOT, "d/hard"));
  CHECK(status("d/hard", 0).ino == status("f", 0).ino && status("f", 0).nlink == 2);
  FAILS(EXIST, __wasi_path_link(ROOT, 0, "f", ROOT, "d/hard"));
  FAILS(NOENT, __wasi_path_link(ROOT, 0, "none", ROOT, "x"));
  FAILS(PERM, __wasi_path_link(ROOT, 0, "d", ROOT, "x"));
  OK(__wasi_path_link(ROOT, 0, "l", ROOT, "l2")); /* the link itself */
  CHECK(status("l2", 0).filetype == __WASI_FILETYPE_SYMBOLIC_LINK);
  OK(__wasi_path_unlink_file(ROOT, "d/hard"));
  CHECK(status("f", 0).nlink == 1);
  FAILS(NOENT, __wasi_path_unlink_file(ROOT, "d/hard"));
}

static void renaming(void) {
  make_file("a", "1");
  make_file("b", "22");
  OK(__wasi_path_rename(ROOT, "a", ROOT, "b")); /* in place of the other */
  CHECK(!exists("a") && size_of("b") == 1);
  OK(__wasi_path_rename(ROOT, "b", ROOT, "b"));
  OK(__wasi_path_create_directory(ROOT, "x"));
  OK(__wasi_path_create_directory(ROOT, "y"));
  OK(__wasi_path_rename(ROOT, "b", ROOT, "x/b"));
  FAILS(ISDIR, __wasi_path_rename(ROOT, "f", ROOT, "y"));
  FAILS(NOTDIR, __wasi_path_rename(ROOT, "y", ROOT, "f"));
  FAILS(NOTEMPTY, __wasi_path_rename(ROOT, "y", ROOT, "x"));
  FAILS(INVAL, __wasi_path_rename(ROOT, "x", ROOT, "x/in"));
  FAILS(NOENT, __wasi_path_rename(ROOT, "none", ROOT, "z"));
  OK(__wasi_path_rename(ROOT, "x", ROOT, "y")); /* an empty directory may be replaced */
  CHECK(!exists("x") && exists("y/b"));
  __wasi_fd_t folder = opened("y", __WASI_OFLAGS_DIRECTORY);
  OK(__wasi_path_rename(folder, "b", ROOT, "b"));
  CHECK(exists("b"));
  FAILS(PERM, __wasi_path_rename(ROOT, "b", folder, "../b"));
  OK(__wasi_fd_close(folder));
}

static void times(void) {
  const __wasi_timestamp_t first = 1234567890123456789, second = 987654321098765432;
  __wasi_fstflags_t both = __WASI_FSTFLAGS_ATIM | __WASI_FSTFLAGS_MTIM;
  OK(__wasi_path_filestat_set_times(ROOT, 0, "f", first, second, both));
  CHECK(status("f", 0).atim == first && status("f", 0).mtim == second);
  OK(__wasi_path_filestat_set_times(ROOT, 0, "f", 0, 5, __WASI_FSTFLAGS_MTIM));
  CHECK(status("f", 0).atim == first && status("f", 0).mtim == 5);
  OK(__wasi_path_filestat_set_times(ROOT, 0, "f", 0, 0, __WASI_FSTFLAGS_ATIM_NOW));
  CHECK(status("f", 0).atim > first && status("f", 0).mtim == 5);
  FAILS(INVAL, __wasi_path_filestat_set_times(ROOT, 0, "f", 1, 1,
                                              __WASI_FSTFLAGS_MTIM | __WASI_FSTFLAGS_MTIM_NOW));
  OK(__wasi_path_filestat_set_times(ROOT, FOLLOW, "l", first, second, both));
  CHECK(status("f", 0).mtim == second);
  OK(__wasi_path_filestat_set_times(ROOT, 0, "l", 3, 4, both));
  CHECK(status("l", 0).mtim == 4 && status("f", 0).mtim == second);
  FAILS(NOENT, __wasi_path_filestat_set_times(ROOT, 0, "none", 0, 0, 0));
  __wasi_fd_t fd = opened("f", 0);
  OK(__wasi_fd_filestat_set_times(fd, second, 0, __WASI_FSTFLAGS_ATIM));
  CHECK(status("f", 0).atim == second && status("f", 0).mtim == second);
  OK(__wasi_fd_filestat_set_times(fd, 0, 0, __WASI_FSTFLAGS_MTIM_NOW));
  CHECK(status("f", 0).mtim > first);
  FAILS(INVAL, __wasi_fd_filestat_set_times(fd, 0, 0, 3));
  FAILS(BADF, __wasi_fd_filestat_set_times(NONE, 0, 0, 0));
  OK(__wasi_fd_close(fd));
}

int main(void) {
  directories();
  symbolic_links();
  hard_links();
  renaming();
  times();
  return 0;
}
