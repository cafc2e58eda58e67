/* A hash map with open addressing: insert, look up, remove. */
#include "kernel.h"

enum { ROOM = 1 << 14 };
typedef struct {
  uint32_t key, value;
} entry;
static entry entries[ROOM];

static NOINLINE entry *find(uint32_t key) {
  uint32_t at = key * 0x9E3779B1U >> 18;
  while (entries[at].key && entries[at].key != key) at = (at + 1) & (ROOM - 1);
  return &entries[at];
}

uint32_t run(uint32_t n) {
  uint32_t seed = 11, sum = 0;
  for (uint32_t i = 0; i < ROOM; i++) entries[i] = (entry){0, 0};
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t key = next_random(&seed) % 9000 + 1;
    entry *e = find(key);
    if (!e->key) e->key = key;
    e->value += i;
    sum += find((key * 7) % 9000 + 1)->value;
  }
  return sum;
}
