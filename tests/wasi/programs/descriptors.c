/* Numbers, flags and rights of descriptors. */
#include "check.h"

static __wasi_fdstat_t status(__wasi_fd_t fd) {
  __wasi_fdstat_t found;
  OK(__wasi_fd_fdstat_get(fd, &found));
  return found;
}

static void preopened(void) {
  __wasi_prestat_t found;
  uint8_t name[16] = {0};
  OK(__wasi_fd_prestat_get(ROOT, &found));
  CHECK(found.tag == __WASI_PREOPENTYPE_DIR && found.u.dir.pr_name_len == 5);
  OK(__wasi_fd_prestat_dir_name(ROOT, name, 5));
  CHECK(!memcmp(name, "/data", 6));
  FAILS(NAMETOOLONG, __wasi_fd_prestat_dir_name(ROOT, name, 4));
  FAILS(BADF, __wasi_fd_prestat_get(0, &found));
  FAILS(BADF, __wasi_fd_prestat_get(ROOT + 1, &found));
  FAILS(BADF, __wasi_fd_prestat_dir_name(1, name, 16));
  CHECK(status(ROOT).fs_filetype == __WASI_FILETYPE_DIRECTORY);
}

static void rights(void) {
  __wasi_fd_t fd;
  __wasi_size_t count;
  uint8_t byte[1];
  __wasi_iovec_t in = {byte, 1};
  make_file("f", "content");
  OK(__wasi_path_open(ROOT, 0, "f", 0, __WASI_RIGHTS_FD_READ | __WASI_RIGHTS_FD_SEEK, 0, 0, &fd));
  CHECK(status(fd).fs_filetype == __WASI_FILETYPE_REGULAR_FILE);
  CHECK(status(fd).fs_rights_base & __WASI_RIGHTS_FD_READ);
  CHECK(!(status(fd).fs_rights_base & __WASI_RIGHTS_FD_WRITE));
  FAILS(BADF, write_text(fd, "x"));
  FAILS(NOTCAPABLE, __wasi_fd_filestat_set_size(fd, 0));
  FAILS(NOTCAPABLE, __wasi_fd_fdstat_set_rights(fd, ALL_RIGHTS, 0));
  OK(__wasi_fd_fdstat_set_rights(fd, __WASI_RIGHTS_FD_SEEK, 0));
  CHECK(status(fd).fs_rights_base == __WASI_RIGHTS_FD_SEEK);
  FAILS(BADF, __wasi_fd_read(fd, &in, 1, &count));
  FAILS(NOTCAPABLE, __wasi_fd_fdstat_set_rights(fd, __WASI_RIGHTS_FD_READ, 0));
  OK(__wasi_fd_close(fd));
  /* A directory hands on no more than it may. */
  __wasi_fd_t folder;
  OK(__wasi_path_create_directory(ROOT, "d"));
  OK(__wasi_path_open(ROOT, 0, "d", __WASI_OFLAGS_DIRECTORY, __WASI_RIGHTS_PATH_OPEN,
                      __WASI_RIGHTS_FD_READ, 0, &folder));
  FAILS(NOTCAPABLE, __wasi_path_open(folder, 0, "x", __WASI_OFLAGS_CREAT, 0, 0, 0, &fd));
  FAILS(NOTCAPABLE, __wasi_path_create_directory(folder, "x"));
  FAILS(NOTCAPABLE, __wasi_path_unlink_file(folder, "x"));
  FAILS(NOTCAPABLE, __wasi_path_open(folder, 0, "x", 0, __WASI_RIGHTS_FD_WRITE, 0, 0, &fd));
  FAILS(NOENT, __wasi_path_open(folder, 0, "x", 0, __WASI_RIGHTS_FD_READ, 0, 0, &fd));
  OK(__wasi_fd_close(folder));
}

static void flags(void) {
  __wasi_fd_t fd;
  OK(open_at("f", 0, __WASI_FDFLAGS_APPEND | __WASI_FDFLAGS_SYNC, &fd));
  CHECK(status(fd).fs_flags == (__WASI_FDFLAGS_APPEND | __WASI_FDFLAGS_SYNC));
  FAILS(INVAL, __wasi_fd_fdstat_set_flags(fd, __WASI_FDFLAGS_APPEND));
  OK(__wasi_fd_fdstat_set_flags(fd, __WASI_FDFLAGS_NONBLOCK | __WASI_FDFLAGS_SYNC));
  CHECK(status(fd).fs_flags == (__WASI_FDFLAGS_NONBLOCK | __WASI_FDFLAGS_SYNC));
  FAILS(INVAL, __wasi_fd_fdstat_set_flags(fd, 32));
  FAILS(BADF, __wasi_fd_fdstat_set_flags(NONE, 0));
  FAILS(BADF, __wasi_fd_fdstat_set_rights(NONE, 0, 0));
  __wasi_fdstat_t found;
  FAILS(BADF, __wasi_fd_fdstat_get(NONE, &found));
  FAILS(FAULT, __wasi_fd_fdstat_get(fd, (__wasi_fdstat_t *)0xfffffff0));
  OK(__wasi_fd_close(fd));
}

static void numbers(void) {
  char content[8] = {0};
  __wasi_filesize_t at;
  __wasi_fd_t a = opened("f", 0), b = opened("f", 0), c = opened("f", 0);
  CHECK(a == 4 && b == 5 && c == 6);
  OK(__wasi_fd_seek(c, 3, __WASI_WHENCE_SET, &at));
  OK(__wasi_fd_renumber(c, a)); /* closes what a was */
  FAILS(BADF, __wasi_fd_tell(c, &at));
  OK(__wasi_fd_tell(a, &at));
  CHECK(at == 3 && read_some(a, content, 7) == 4 && !strcmp(content, "tent"));
  FAILS(BADF, __wasi_fd_renumber(a, c));
  FAILS(BADF, __wasi_fd_renumber(c, a));
  OK(__wasi_fd_renumber(a, a));
  OK(__wasi_fd_tell(a, &at));
  OK(__wasi_fd_close(a));
  CHECK(opened("f", 0) == 4 && opened("f", 0) == 6 && opened("f", 0) == 7);
  for (__wasi_fd_t fd = 4; fd < 8; fd++) OK(__wasi_fd_close(fd));
  /* A preopened directory can be closed, and its number given out again. */
  __wasi_fd_t folder = opened(".", __WASI_OFLAGS_DIRECTORY);
  OK(__wasi_fd_renumber(folder, ROOT));
  CHECK(exists("f"));
  __wasi_prestat_t found;
  FAILS(BADF, __wasi_fd_prestat_get(ROOT, &found));
}

static void streams(void) {
  __wasi_filesize_t at;
  __wasi_filestat_t stat;
  __wasi_size_t count;
  uint8_t byte[1];
  __wasi_iovec_t in = {byte, 1};
  for (__wasi_fd_t fd = 0; fd < 3; fd++) {
    FAILS(SPIPE, __wasi_fd_seek(fd, 0, __WASI_WHENCE_CUR, &at));
    FAILS(SPIPE, __wasi_fd_tell(fd, &at));
    OK(__wasi_fd_filestat_get(fd, &stat));
    CHECK(stat.filetype == status(fd).fs_filetype);
  }
  FAILS(BADF, write_text(0, "x"));
  FAILS(BADF, __wasi_fd_read(1, &in, 1, &count));
  FAILS(SPIPE, __wasi_fd_pread(0, &in, 1, 0, &count));
  FAILS(ISDIR, __wasi_fd_read(ROOT, &in, 1, &count));
  FAILS(BADF, __wasi_fd_seek(ROOT, 0, __WASI_WHENCE_CUR, &at));
}

int main(void) {
  preopened();
  rights();
  flags();
  numbers();
  streams();
  return 0;
}
