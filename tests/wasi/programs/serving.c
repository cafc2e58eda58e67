/* Answers connections on descriptor 4, one after another: what comes in goes out in capitals, until
 * the other side has said all. The one that says "quit" is the last. */
#include "check.h"

enum { LISTENER = 4 };

static int serve(__wasi_fd_t fd) {
  uint8_t text[64], seen[4];
  __wasi_size_t got = 0, sent = 0;
  __wasi_roflags_t flags = 0;
  int last = 0;
  for (;;) {
    __wasi_iovec_t peek = {seen, sizeof seen}, in[2] = {{text, 1}, {text + 1, sizeof text - 1}};
    OK(__wasi_sock_recv(fd, &peek, 1, __WASI_RIFLAGS_RECV_PEEK, &got, &flags));
    if (!got) break;
    if (got == 4 && !memcmp(seen, "quit", 4)) last = 1;
    OK(__wasi_sock_recv(fd, in, 2, 0, &got, &flags));
    CHECK(got >= 1 && flags == 0);
    for (__wasi_size_t i = 0; i < got; i++)
      if (text[i] >= 'a' && text[i] <= 'z') text[i] -= 32;
    for (__wasi_size_t done = 0; done < got; done += sent) {
      __wasi_ciovec_t out = {text + done, got - done};
      OK(__wasi_sock_send(fd, &out, 1, 0, &sent));
    }
  }
  OK(__wasi_sock_shutdown(fd, __WASI_SDFLAGS_WR));
  FAILS(PIPE, write_text(fd, "x"));
  FAILS(INVAL, __wasi_sock_shutdown(fd, 0));
  OK(__wasi_fd_close(fd));
  return last;
}

int main(void) {
  __wasi_fdstat_t status;
  __wasi_fd_t fd = 0;
  __wasi_size_t count;
  __wasi_roflags_t flags;
  uint8_t byte[1];
  __wasi_iovec_t in = {byte, 1};
  OK(__wasi_fd_fdstat_get(LISTENER, &status));
  CHECK(status.fs_filetype == __WASI_FILETYPE_SOCKET_STREAM);
  FAILS(NOTSOCK, __wasi_sock_accept(ROOT, 0, &fd));
  FAILS(NOTSOCK, __wasi_sock_shutdown(1, 3));
  FAILS(BADF, __wasi_sock_accept(NONE, 0, &fd));
  FAILS(NOTCONN, __wasi_sock_recv(LISTENER, &in, 1, 0, &count, &flags));
  do {
    OK(__wasi_sock_accept(LISTENER, 0, &fd));
    CHECK(fd == 5);
  } while (!serve(fd));
  return 0;
}
