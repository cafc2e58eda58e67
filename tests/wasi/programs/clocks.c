/* Clocks, sleeping, chance, and giving way. */
#include "check.h"

enum { MS = 1000000 };

static uint64_t now(__wasi_clockid_t clock) {
  __wasi_timestamp_t time = 0;
  OK(__wasi_clock_time_get(clock, 1, &time));
  return time;
}

static __wasi_subscription_t timer(uint64_t userdata, __wasi_clockid_t clock, uint64_t timeout,
                                   __wasi_subclockflags_t flags) {
  __wasi_subscription_t wanted = {.userdata = userdata, .u.tag = __WASI_EVENTTYPE_CLOCK};
  wanted.u.u.clock.id = clock;
  wanted.u.u.clock.timeout = timeout;
  wanted.u.u.clock.flags = flags;
  return wanted;
}

int main(void) {
  __wasi_timestamp_t time = 0;
  for (__wasi_clockid_t clock = 0; clock < 4; clock++) {
    OK(__wasi_clock_res_get((__wasi_clockid_t){clock}, &time));
    CHECK(time > 0 && time < 1000 * (uint64_t)MS);
    uint64_t first = now(clock), second = now(clock);
    CHECK(second >= first || clock == __WASI_CLOCKID_REALTIME);
  }
  CHECK(now(__WASI_CLOCKID_REALTIME) > 1577836800ull * 1000 * MS);
  CHECK(now(__WASI_CLOCKID_MONOTONIC) > 0);
  FAILS(INVAL, __wasi_clock_res_get(4, &time));
  FAILS(INVAL, __wasi_clock_time_get(99, 0, &time));
  FAILS(FAULT, __wasi_clock_time_get(0, 0, (__wasi_timestamp_t *)0xfffffffc));

  /* Sleeps: relative, absolute by both clocks, the earlier of two, one that is over already. */
  __wasi_event_t events[4];
  __wasi_size_t count = 0;
  uint64_t begun = now(__WASI_CLOCKID_MONOTONIC);
  __wasi_subscription_t wanted[4];
  wanted[0] = timer(5, __WASI_CLOCKID_MONOTONIC, 20 * MS, 0);
  OK(__wasi_poll_oneoff(wanted, events, 1, &count));
  CHECK(count == 1 && events[0].userdata == 5 && events[0].error == 0);
  CHECK(events[0].type == __WASI_EVENTTYPE_CLOCK);
  CHECK(now(__WASI_CLOCKID_MONOTONIC) >= begun + 20 * MS);
  wanted[0] = timer(6, __WASI_CLOCKID_MONOTONIC, begun + 40 * MS, 1);
  OK(__wasi_poll_oneoff(wanted, events, 1, &count));
  CHECK(now(__WASI_CLOCKID_MONOTONIC) >= begun + 40 * MS);
  wanted[0] = timer(7, __WASI_CLOCKID_REALTIME, now(__WASI_CLOCKID_REALTIME) + 10 * MS, 1);
  OK(__wasi_poll_oneoff(wanted, events, 1, &count));
  CHECK(count == 1 && events[0].userdata == 7);
  wanted[0] = timer(8, __WASI_CLOCKID_MONOTONIC, 3600000ull * MS, 0);
  wanted[1] = timer(9, __WASI_CLOCKID_REALTIME, 5 * MS, 0);
  wanted[2] = timer(10, __WASI_CLOCKID_MONOTONIC, UINT64_MAX, 0);
  OK(__wasi_poll_oneoff(wanted, events, 3, &count));
  CHECK(count == 1 && events[0].userdata == 9);
  wanted[0] = timer(11, __WASI_CLOCKID_MONOTONIC, 0, 1);
  wanted[1] = timer(12, __WASI_CLOCKID_MONOTONIC, 0, 0);
  OK(__wasi_poll_oneoff(wanted, events, 2, &count));
  CHECK(count == 2 && events[0].userdata == 11 && events[1].userdata == 12);
  wanted[0] = timer(13, 9, 0, 0);
  OK(__wasi_poll_oneoff(wanted, events, 1, &count));
  CHECK(count == 1 && events[0].error == __WASI_ERRNO_INVAL);
  FAILS(INVAL, __wasi_poll_oneoff(wanted, events, 0, &count));

  uint8_t first[64] = {0}, second[64] = {0};
  OK(__wasi_random_get(first, sizeof first));
  OK(__wasi_random_get(second, sizeof second));
  CHECK(memcmp(first, second, sizeof first));
  OK(__wasi_random_get(first, 0));
  FAILS(FAULT, __wasi_random_get((uint8_t *)0xfffffff0, 64));
  OK(__wasi_sched_yield());
  return 0;
}
