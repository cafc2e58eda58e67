/* Ends: signals that are ignored do nothing, then the program ends with exit code 42, or by the
 * signal 6 if it has an argument. */
#include "check.h"

__attribute__((import_module("wasi_snapshot_preview1"), import_name("proc_raise"))) int32_t
proc_raise(int32_t signal);

int main(void) {
  __wasi_size_t count, size;
  FAILS(SUCCESS, (__wasi_errno_t)proc_raise(0));
  FAILS(SUCCESS, (__wasi_errno_t)proc_raise(16)); /* SIGCHLD */
  FAILS(INVAL, (__wasi_errno_t)proc_raise(31));
  FAILS(INVAL, (__wasi_errno_t)proc_raise(-1));
  FAILS(NOTSUP, (__wasi_errno_t)proc_raise(18)); /* SIGSTOP */
  OK(__wasi_args_sizes_get(&count, &size));
  if (count > 1) {
    proc_raise(6); /* SIGABRT */
    CHECK(!"still here");
  }
  __wasi_proc_exit(42);
}
