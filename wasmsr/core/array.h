/* Arrays that grow. An array is a pointer, how many items it has room for, and how many it holds;
 * the last is the caller's to count. */
#ifndef WSR_ARRAY_H
#define WSR_ARRAY_H
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* Make room for `need` items of `size` bytes in the array at `*array`, which has room for `*room`.
 * A grown array has half as much again, so that a caller that appends copies each item a constant
 * number of times. False without memory: then nothing has changed. */
static inline bool wsr_array_reserve(void *array, uint32_t *room, uint32_t need, size_t size) {
  void **const pointer = array;
  if (need <= *room) return true;
  if (need > UINT32_MAX / 3 * 2) return false;
  const uint32_t wanted = need < 32 ? 32 : need + need / 2;
  void *const grown = realloc(*pointer, wanted * size);
  if (!grown) return false;
  *pointer = grown;
  *room = wanted;
  return true;
}

#endif
