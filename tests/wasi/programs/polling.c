/* Waiting for several descriptors. Run with 5 bytes in a file on standard input. */
#include "check.h"

static __wasi_subscription_t wait_for(uint64_t userdata, __wasi_eventtype_t type, __wasi_fd_t fd) {
  __wasi_subscription_t wanted = {.userdata = userdata, .u.tag = type};
  wanted.u.u.fd_read.file_descriptor = fd;
  return wanted;
}

int main(void) {
  __wasi_subscription_t wanted[4];
  __wasi_event_t events[4];
  __wasi_size_t count = 0;
  make_file("f", "content");
  __wasi_fd_t fd = opened("f", 0);
  __wasi_filesize_t at;
  OK(__wasi_fd_seek(fd, 3, __WASI_WHENCE_SET, &at));
  wanted[0] = wait_for(1, __WASI_EVENTTYPE_FD_READ, 0);
  wanted[1] = wait_for(2, __WASI_EVENTTYPE_FD_READ, fd);
  wanted[2] = wait_for(3, __WASI_EVENTTYPE_FD_WRITE, fd);
  wanted[3] = (__wasi_subscription_t){.userdata = 4, .u.tag = __WASI_EVENTTYPE_CLOCK};
  wanted[3].u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
  wanted[3].u.u.clock.timeout = (uint64_t)3600 * 1000000000;
  OK(__wasi_poll_oneoff(wanted, events, 4, &count));
  CHECK(count == 3);
  for (unsigned i = 0; i < 3; i++) CHECK(events[i].userdata == i + 1 && !events[i].error);
  CHECK(events[0].fd_readwrite.nbytes == 5 && events[1].fd_readwrite.nbytes == 4);
  CHECK(events[2].type == __WASI_EVENTTYPE_FD_WRITE);
  char input[8] = {0};
  CHECK(read_some(0, input, 2) == 2 && read_some(0, input + 2, 6) == 3);
  CHECK(!strcmp(input, "12345") && read_some(0, input, 8) == 0);
  /* What is wrong with a subscription is its event's error. */
  wanted[0] = wait_for(7, __WASI_EVENTTYPE_FD_READ, NONE);
  wanted[1] = wait_for(8, __WASI_EVENTTYPE_FD_WRITE, 1);
  OK(__wasi_poll_oneoff(wanted, events, 2, &count));
  CHECK(count == 2 && events[0].userdata == 7 && events[0].error == __WASI_ERRNO_BADF);
  CHECK(events[1].userdata == 8 && events[1].error == 0);
  wanted[0].u.tag = 3;
  FAILS(INVAL, __wasi_poll_oneoff(wanted, events, 1, &count));
  FAILS(FAULT, __wasi_poll_oneoff((__wasi_subscription_t *)0xffffffe0, events, 1, &count));
  FAILS(FAULT, __wasi_poll_oneoff(wanted, (__wasi_event_t *)0xfffffff0, 1, &count));
  return 0;
}
