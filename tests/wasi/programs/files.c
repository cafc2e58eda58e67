/* Open files: reading, writing, seeking, sizes, in all combinations of flags. */
#include "check.h"

static uint64_t seek(__wasi_fd_t fd, int64_t offset, __wasi_whence_t whence) {
  __wasi_filesize_t at = 0;
  OK(__wasi_fd_seek(fd, offset, whence, &at));
  return at;
}

static uint64_t tell(__wasi_fd_t fd) {
  __wasi_filesize_t at = 0;
  OK(__wasi_fd_tell(fd, &at));
  return at;
}

static void opening(void) {
  __wasi_fd_t fd;
  FAILS(NOENT, open_at("new", 0, 0, &fd));
  FAILS(NOENT, open_at("new", __WASI_OFLAGS_TRUNC, 0, &fd));
  FAILS(NOENT, open_at("none/new", __WASI_OFLAGS_CREAT, 0, &fd));
  OK(open_at("new", __WASI_OFLAGS_CREAT | __WASI_OFLAGS_EXCL, 0, &fd));
  CHECK(fd == 4); /* the lowest that is free */
  FAILS(EXIST, open_at("new", __WASI_OFLAGS_CREAT | __WASI_OFLAGS_EXCL, 0, &fd));
  FAILS(NOTDIR, open_at("new", __WASI_OFLAGS_DIRECTORY, 0, &fd));
  FAILS(NOTDIR, open_at("new/", 0, 0, &fd));
  FAILS(NOTDIR, open_at("new/x", __WASI_OFLAGS_CREAT, 0, &fd));
  FAILS(ISDIR, open_at(".", __WASI_OFLAGS_TRUNC, 0, &fd));
  FAILS(NOENT, open_at("", __WASI_OFLAGS_CREAT, 0, &fd));
  FAILS(INVAL, open_at("d", __WASI_OFLAGS_CREAT | __WASI_OFLAGS_DIRECTORY, 0, &fd));
  FAILS(BADF, __wasi_path_open(NONE, 0, "new", 0, 0, 0, 0, &fd));
  FAILS(NOTDIR, __wasi_path_open(4, 0, "new", 0, 0, 0, 0, &fd));
  OK(__wasi_fd_close(4));
  FAILS(BADF, __wasi_fd_close(4));
}

static void reading_and_writing(void) {
  __wasi_fd_t fd = opened("f", __WASI_OFLAGS_CREAT);
  __wasi_size_t count = 0;
  /* Gather, scatter, with empty parts. */
  __wasi_ciovec_t out[4] = {{(const uint8_t *)"hello ", 6}, {(const uint8_t *)"", 0},
                            {(const uint8_t *)"wor", 3}, {(const uint8_t *)"ld", 2}};
  OK(__wasi_fd_write(fd, out, 4, &count));
  CHECK(count == 11 && tell(fd) == 11);
  CHECK(seek(fd, 0, __WASI_WHENCE_SET) == 0);
  uint8_t a[5] = {0}, b[100] = {0};
  __wasi_iovec_t in[3] = {{a, sizeof a}, {b, 0}, {b, sizeof b}};
  OK(__wasi_fd_read(fd, in, 3, &count));
  CHECK(count == 11 && !memcmp(a, "hello", 5) && !memcmp(b, " world", 6));
  OK(__wasi_fd_read(fd, in, 3, &count));
  CHECK(count == 0);
  OK(__wasi_fd_read(fd, in, 0, &count));
  CHECK(count == 0);
  /* By position, which leaves the offset. */
  CHECK(seek(fd, -5, __WASI_WHENCE_END) == 6);
  OK(__wasi_fd_pread(fd, in, 3, 4, &count));
  CHECK(count == 7 && !memcmp(a, "o wor", 5) && !memcmp(b, "ld", 2));
  OK(__wasi_fd_pwrite(fd, out, 1, 20, &count));
  CHECK(count == 6 && tell(fd) == 6 && size_of("f") == 26);
  OK(__wasi_fd_pread(fd, in, 1, 11, &count));
  CHECK(count == 5 && !memcmp(a, "\0\0\0\0\0", 5)); /* the hole */
  OK(__wasi_fd_pread(fd, in, 1, 1000, &count));
  CHECK(count == 0);
  FAILS(INVAL, __wasi_fd_pread(fd, in, 1, UINT64_MAX, &count));
  FAILS(INVAL, __wasi_fd_pwrite(fd, out, 1, (uint64_t)1 << 63, &count));
  /* Seeking. */
  CHECK(seek(fd, 10, __WASI_WHENCE_CUR) == 16);
  CHECK(seek(fd, 100, __WASI_WHENCE_END) == 126);
  CHECK(seek(fd, 0, __WASI_WHENCE_CUR) == 126 && read_some(fd, b, 10) == 0);
  __wasi_filesize_t at;
  FAILS(INVAL, __wasi_fd_seek(fd, -1, __WASI_WHENCE_SET, &at));
  FAILS(INVAL, __wasi_fd_seek(fd, -127, __WASI_WHENCE_CUR, &at));
  FAILS(INVAL, __wasi_fd_seek(fd, 0, 3, &at));
  CHECK(tell(fd) == 126);
  /* Pointers. */
  FAILS(FAULT, __wasi_fd_write(fd, (__wasi_ciovec_t *)0xfffffff8, 1, &count));
  __wasi_iovec_t bad = {(uint8_t *)0xfffffff0, 100};
  FAILS(FAULT, __wasi_fd_read(fd, &bad, 1, &count));
  FAILS(FAULT, __wasi_fd_read(fd, in, 1, (__wasi_size_t *)0xfffffffe));
  FAILS(BADF, __wasi_fd_read(NONE, in, 1, &count));
  FAILS(BADF, __wasi_fd_write(NONE, out, 1, &count));
  OK(__wasi_fd_close(fd));
}

static void appending(void) {
  __wasi_fd_t fd, other;
  make_file("log", "one ");
  OK(open_at("log", 0, __WASI_FDFLAGS_APPEND, &fd));
  CHECK(tell(fd) == 0);
  OK(write_text(fd, "two "));
  CHECK(tell(fd) == 8);
  CHECK(seek(fd, 0, __WASI_WHENCE_SET) == 0);
  OK(open_at("log", 0, 0, &other));
  seek(other, 0, __WASI_WHENCE_END);
  OK(write_text(other, "other "));
  OK(write_text(fd, "three"));
  CHECK(size_of("log") == 19);
  OK(__wasi_fd_fdstat_set_flags(fd, 0)); /* and no longer */
  CHECK(seek(fd, 0, __WASI_WHENCE_SET) == 0);
  OK(write_text(fd, "ONE"));
  char content[32] = {0};
  CHECK(seek(other, 0, __WASI_WHENCE_SET) == 0 && read_some(other, content, 31) == 19);
  CHECK(!strcmp(content, "ONE two other three"));
  OK(__wasi_fd_close(fd));
  OK(__wasi_fd_close(other));
}

static void sizing(void) {
  __wasi_filestat_t stat;
  __wasi_fd_t fd = opened("s", __WASI_OFLAGS_CREAT);
  OK(write_text(fd, "0123456789"));
  OK(__wasi_fd_filestat_set_size(fd, 4));
  OK(__wasi_fd_filestat_get(fd, &stat));
  CHECK(stat.size == 4 && stat.filetype == __WASI_FILETYPE_REGULAR_FILE && stat.nlink == 1);
  CHECK(tell(fd) == 10);
  OK(write_text(fd, "x")); /* leaves a hole */
  OK(__wasi_fd_filestat_get(fd, &stat));
  CHECK(stat.size == 11);
  OK(__wasi_fd_filestat_set_size(fd, 1 << 20));
  CHECK(size_of("s") == 1 << 20);
  FAILS(INVAL, __wasi_fd_filestat_set_size(fd, UINT64_MAX));
  FAILS(BADF, __wasi_fd_filestat_set_size(ROOT, 0));
  OK(__wasi_fd_filestat_set_size(fd, 0));
  OK(__wasi_fd_allocate(fd, 10, 90));
  CHECK(size_of("s") == 100);
  OK(__wasi_fd_allocate(fd, 0, 50)); /* never shorter */
  CHECK(size_of("s") == 100);
  FAILS(INVAL, __wasi_fd_allocate(fd, 0, 0));
  for (__wasi_advice_t advice = 0; advice < 6; advice++)
    OK(__wasi_fd_advise(fd, 0, 100, (__wasi_advice_t){advice}));
  FAILS(INVAL, __wasi_fd_advise(fd, 0, 100, 6));
  FAILS(BADF, __wasi_fd_advise(NONE, 0, 0, 0));
  OK(__wasi_fd_sync(fd));
  OK(__wasi_fd_datasync(fd));
  FAILS(BADF, __wasi_fd_sync(NONE));
  FAILS(BADF, __wasi_fd_datasync(NONE));
  OK(__wasi_fd_close(fd));
  OK(open_at("s", __WASI_OFLAGS_TRUNC, 0, &fd));
  CHECK(size_of("s") == 0);
  OK(__wasi_fd_close(fd));
}

/* A file without a name, and one that changes it, both open. */
static void names_of_open_files(void) {
  char content[16] = {0};
  __wasi_fd_t gone = opened("gone", __WASI_OFLAGS_CREAT), moved = opened("m", __WASI_OFLAGS_CREAT);
  OK(write_text(gone, "still "));
  OK(__wasi_path_unlink_file(ROOT, "gone"));
  OK(write_text(gone, "here"));
  CHECK(!exists("gone"));
  OK(__wasi_path_rename(ROOT, "m", ROOT, "n"));
  OK(write_text(moved, "moved"));
  seek(gone, 0, __WASI_WHENCE_SET);
  CHECK(read_some(gone, content, 15) == 10 && !strcmp(content, "still here"));
  CHECK(size_of("n") == 5);
  __wasi_filestat_t stat;
  OK(__wasi_fd_filestat_get(gone, &stat));
  CHECK(stat.nlink == 0 && stat.size == 10);
  OK(__wasi_fd_close(gone));
  OK(__wasi_fd_close(moved));
}

int main(void) {
  opening();
  reading_and_writing();
  appending();
  sizing();
  names_of_open_files();
  return 0;
}
