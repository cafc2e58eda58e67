/* Arguments and environment: run with "one", "two words" and "", and with A=1 and EMPTY=. */
#include "check.h"

int main(void) {
  __wasi_size_t count = 0, size = 0;
  uint8_t *pointers[8];
  uint8_t text[64];
  OK(__wasi_args_sizes_get(&count, &size));
  CHECK(count == 4);
  CHECK(size == sizeof "process.wasm" + sizeof "one" + sizeof "two words" + sizeof "");
  OK(__wasi_args_get(pointers, text));
  CHECK(pointers[0] == text);
  CHECK(!strcmp((char *)pointers[0], "process.wasm"));
  CHECK(!strcmp((char *)pointers[1], "one"));
  CHECK(!strcmp((char *)pointers[2], "two words"));
  CHECK(!strcmp((char *)pointers[3], ""));
  OK(__wasi_environ_sizes_get(&count, &size));
  CHECK(count == 2 && size == sizeof "A=1" + sizeof "EMPTY=");
  OK(__wasi_environ_get(pointers, text));
  CHECK(!strcmp((char *)pointers[0], "A=1"));
  CHECK(!strcmp((char *)pointers[1], "EMPTY="));
  FAILS(FAULT, __wasi_args_sizes_get((__wasi_size_t *)0xfffffffd, &size));
  FAILS(FAULT, __wasi_args_get(pointers, (uint8_t *)0xfffffff0));
  FAILS(FAULT, __wasi_environ_get((uint8_t **)0xfffffff8, text));
  FAILS(FAULT, __wasi_environ_sizes_get(&count, (__wasi_size_t *)0xffffffff));
  return 0;
}
