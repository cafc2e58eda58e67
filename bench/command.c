/* A kernel as a command for WASI: runs run(REPEAT) and prints its result, so that engines that are
 * command-line programs can take part (bench/outside.py). With NOTHING it does nothing: what an
 * engine needs to start. */
#include "kernels/kernel.h"

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))
struct part {
  const char *bytes;
  uint32_t length;
};
WASI(fd_write)
int fd_write(int descriptor, const struct part *parts, uint32_t count, uint32_t *written);

__attribute__((export_name("_start"))) void start(void) {
#ifndef NOTHING
  static char line[9];
  uint32_t result = run(REPEAT), written;
  for (int i = 0; i < 8; i++) line[i] = "0123456789abcdef"[result >> (28 - 4 * i) & 15];
  line[8] = '\n';
  const struct part part = {line, sizeof line};
  fd_write(1, &part, 1, &written);
#endif
}
