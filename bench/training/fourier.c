/* Fast Fourier transform, radix 2, of doubles and of floats. */
#include "../kernels/kernel.h"

enum { SIZE = 1024 };
#define TRANSFORM(NAME, T)                                                          \
  static T NAME##_re[SIZE], NAME##_im[SIZE], NAME##_cos[SIZE / 2], NAME##_sin[SIZE / 2]; \
  static NOINLINE void NAME(void) {                                                 \
    for (uint32_t i = 1, j = 0; i < SIZE; i++) {                                    \
      uint32_t bit = SIZE >> 1;                                                     \
      for (; j & bit; bit >>= 1) j ^= bit;                                          \
      j ^= bit;                                                                     \
      if (i < j) {                                                                  \
        const T r = NAME##_re[i], m = NAME##_im[i];                                 \
        NAME##_re[i] = NAME##_re[j], NAME##_im[i] = NAME##_im[j];                   \
        NAME##_re[j] = r, NAME##_im[j] = m;                                         \
      }                                                                             \
    }                                                                               \
    for (uint32_t half = 1; half < SIZE; half *= 2)                                 \
      for (uint32_t at = 0; at < SIZE; at += 2 * half)                              \
        for (uint32_t k = 0; k < half; k++) {                                       \
          const T c = NAME##_cos[k * (SIZE / 2 / half)], s = NAME##_sin[k * (SIZE / 2 / half)]; \
          T *const a = &NAME##_re[at + k], *const b = &NAME##_im[at + k];           \
          const T r = a[half] * c - b[half] * s, m = a[half] * s + b[half] * c;     \
          a[half] = a[0] - r, b[half] = b[0] - m;                                   \
          a[0] += r, b[0] += m;                                                     \
        }                                                                           \
  }                                                                                 \
  static void NAME##_prepare(void) {                                                \
    T c = 1, s = 0; /* a rotation by 2 pi / SIZE, again and again */                \
    for (uint32_t k = 0; k < SIZE / 2; k++) {                                       \
      NAME##_cos[k] = c, NAME##_sin[k] = -s;                                        \
      const T next = c * (T)0.99998117528260 - s * (T)0.00613588464915;             \
      s = s * (T)0.99998117528260 + c * (T)0.00613588464915;                        \
      c = next;                                                                     \
    }                                                                               \
    for (uint32_t i = 0; i < SIZE; i++) NAME##_re[i] = (T)(i % 17), NAME##_im[i] = 0; \
  }
TRANSFORM(wide, double)
TRANSFORM(narrow, float)

uint32_t run(uint32_t n) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < n; i++) {
    wide_prepare();
    narrow_prepare();
    wide();
    narrow();
    sum += (uint32_t)(int32_t)(wide_re[i % SIZE] + (double)narrow_im[i % SIZE]);
  }
  return sum;
}
