/* The product of two matrices of doubles. */
#include "kernel.h"

enum { N = 64 };
static double a[N][N], b[N][N], c[N][N];

uint32_t run(uint32_t n) {
  for (int i = 0; i < N; i++)
    for (int k = 0; k < N; k++) {
      a[i][k] = (double)((i * 7 + k * 3) % 11) - 5;
      b[i][k] = (double)((i * 5 + k) % 13) / 4;
    }
  double trace = 0;
  for (uint32_t round = 0; round < n; round++) {
    for (int i = 0; i < N; i++)
      for (int k = 0; k < N; k++) {
        double sum = 0;
        for (int j = 0; j < N; j++) sum += a[i][j] * b[j][k];
        c[i][k] = sum;
      }
    for (int i = 0; i < N; i++) trace += c[i][(i + (int)round) % N];
    a[round % N][0] += 1;
  }
  return (uint32_t)(int64_t)trace;
}
