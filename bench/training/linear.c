/* Linear algebra on small dense matrices: products with vectors, elimination, orthogonalisation. */
#include "../kernels/kernel.h"

enum { N = 48 };
static double a[N][N], q[N][N], x[N], y[N], z[N];
static float w[N][N], u[N], v[N];

static NOINLINE void times_vector(const double *restrict in, double *restrict out) {
  for (uint32_t i = 0; i < N; i++) {
    double sum = 0;
    for (uint32_t j = 0; j < N; j++) sum += a[i][j] * in[j];
    out[i] = sum;
  }
}

static NOINLINE void transposed(const double *restrict in, double *restrict out) {
  for (uint32_t j = 0; j < N; j++) out[j] = 0;
  for (uint32_t i = 0; i < N; i++)
    for (uint32_t j = 0; j < N; j++) out[j] += a[i][j] * in[i];
}

static NOINLINE double solve(void) {
  for (uint32_t i = 0; i < N; i++) {
    for (uint32_t j = 0; j < N; j++) q[i][j] = a[i][j] + (i == j ? 9.0 : 0.0);
    z[i] = x[i];
  }
  for (uint32_t k = 0; k < N; k++)
    for (uint32_t i = k + 1; i < N; i++) {
      const double f = q[i][k] / q[k][k];
      for (uint32_t j = k; j < N; j++) q[i][j] -= f * q[k][j];
      z[i] -= f * z[k];
    }
  for (uint32_t i = N; i-- > 0;) {
    for (uint32_t j = i + 1; j < N; j++) z[i] -= q[i][j] * z[j];
    z[i] /= q[i][i];
  }
  return z[0];
}

static NOINLINE float layer(void) { /* of a neural network */
  float most = 0;
  for (uint32_t i = 0; i < N; i++) {
    float sum = v[i];
    for (uint32_t j = 0; j < N; j++) sum += w[i][j] * u[j];
    u[i] = sum > 0 ? sum * 0.01f : 0.1f;
    if (u[i] > most) most = u[i];
  }
  return most;
}

static NOINLINE void product(void) {
  for (uint32_t i = 0; i < N; i++)
    for (uint32_t k = 0; k < N; k++) {
      const double by = 0.5 * a[i][k];
      for (uint32_t j = 0; j < N; j++) q[i][j] = q[i][j] * 0.25 + by * a[k][j];
    }
}

uint32_t run(uint32_t n) {
  uint32_t seed = 5;
  double sum = 0;
  for (uint32_t i = 0; i < N; i++) {
    for (uint32_t j = 0; j < N; j++) {
      a[i][j] = (double)(next_random(&seed) % 100) / 100;
      w[i][j] = (float)a[i][j] - 0.5f;
    }
    x[i] = (double)i / N, u[i] = (float)i / N, v[i] = 0.25f;
  }
  for (uint32_t i = 0; i < n; i++) {
    times_vector(x, y);
    transposed(y, z);
    sum += solve() + (double)layer();
    product();
    x[i % N] += 0.5;
  }
  return (uint32_t)(int32_t)(sum * 1000);
}
