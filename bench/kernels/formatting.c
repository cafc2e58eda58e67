/* Formatting of strings: numbers to decimal and hexadecimal, copied, joined and read back. */
#include "kernel.h"

static char line[256];

static NOINLINE char *decimal(char *to, uint32_t value) {
  char digits[10];
  int n = 0;
  do digits[n++] = (char)('0' + value % 10);
  while (value /= 10);
  while (n) *to++ = digits[--n];
  return to;
}

static NOINLINE char *hexadecimal(char *to, uint32_t value) {
  for (int shift = 28; shift >= 0; shift -= 4) *to++ = "0123456789abcdef"[value >> shift & 15];
  return to;
}

static NOINLINE char *text(char *to, const char *from) {
  while (*from) *to++ = *from++;
  return to;
}

static NOINLINE uint32_t digits_of(const char *from) {
  uint32_t sum = 0;
  for (; *from; from++)
    if (*from >= '0' && *from <= '9') sum = sum * 10 + (uint32_t)(*from - '0');
  return sum;
}

uint32_t run(uint32_t n) {
  uint32_t seed = 9, sum = 0;
  for (uint32_t i = 0; i < n; i++) {
    char *at = text(line, "item ");
    at = decimal(at, i);
    at = text(at, ": ");
    at = decimal(at, next_random(&seed));
    at = text(at, " = 0x");
    at = hexadecimal(at, seed);
    *at = 0;
    sum = sum * 31 + digits_of(line);
  }
  return sum;
}
