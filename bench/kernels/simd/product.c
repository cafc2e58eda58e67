/* 32-bit lanes: the product of two matrices of floats, row by row. */
#include "../kernel.h"

enum { N = 64 };
static float a[N][N], b[N][N], c[N][N];

uint32_t run(uint32_t n) {
  for (int i = 0; i < N; i++)
    for (int k = 0; k < N; k++) {
      a[i][k] = (float)((i * 7 + k * 3) % 11) - 5;
      b[i][k] = (float)((i * 5 + k) % 13) / 4;
    }
  float trace = 0;
  for (uint32_t round = 0; round < n; round++) {
    for (int i = 0; i < N; i++) {
      for (int k = 0; k < N; k++) c[i][k] = 0;
      for (int j = 0; j < N; j++) {
        const float by = a[i][j];
        for (int k = 0; k < N; k++) c[i][k] += by * b[j][k];
      }
    }
    trace += c[round % N][round * 5 % N];
    a[round % N][0] += 1;
  }
  return (uint32_t)(int32_t)trace;
}
