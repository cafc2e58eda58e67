/* Quicksort of integers, insertion sort for short ranges. */
#include "kernel.h"

enum { SIZE = 20000 };
static int32_t items[SIZE];

static NOINLINE void sort(int32_t low, int32_t high) {
  while (high - low > 12) {
    const int32_t pivot = items[low + (high - low) / 2];
    int32_t i = low, k = high;
    while (i <= k) {
      while (items[i] < pivot) i++;
      while (items[k] > pivot) k--;
      if (i > k) break;
      const int32_t swapped = items[i];
      items[i++] = items[k];
      items[k--] = swapped;
    }
    if (k - low < high - i) {
      sort(low, k);
      low = i;
    } else {
      sort(i, high);
      high = k;
    }
  }
  for (int32_t i = low + 1; i <= high; i++) {
    const int32_t item = items[i];
    int32_t k = i;
    for (; k > low && items[k - 1] > item; k--) items[k] = items[k - 1];
    items[k] = item;
  }
}

uint32_t run(uint32_t n) {
  uint32_t seed = 3, sum = 0;
  for (uint32_t round = 0; round < n; round++) {
    for (int32_t i = 0; i < SIZE; i++) items[i] = (int32_t)next_random(&seed);
    sort(0, SIZE - 1);
    for (int32_t i = 1; i < SIZE; i++) sum += items[i - 1] <= items[i] ? 1U : 1000U;
    sum ^= (uint32_t)items[SIZE / 2];
  }
  return sum;
}
