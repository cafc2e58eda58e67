/* A stencil over floats: the mean of the neighbours, back and forth (Jacobi). */
#include "kernel.h"

enum { N = 100 };
static float grids[2][N][N];

uint32_t run(uint32_t n) {
  for (int i = 0; i < N; i++)
    for (int k = 0; k < N; k++) grids[0][i][k] = grids[1][i][k] = (float)((i * 17 + k * 5) % 23);
  for (uint32_t round = 0; round < n; round++) {
    float(*from)[N] = grids[round & 1], (*to)[N] = grids[~round & 1];
    for (int i = 1; i < N - 1; i++)
      for (int k = 1; k < N - 1; k++)
        to[i][k] = 0.2f * (from[i][k] + from[i - 1][k] + from[i + 1][k] + from[i][k - 1] +
                           from[i][k + 1]);
  }
  return (uint32_t)(grids[n & 1][N / 2][N / 3] * 1e6f);
}
