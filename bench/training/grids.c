/* Sweeps over grids: smoothing, a wave, cellular automata, an image filter, shortest paths. */
#include "../kernels/kernel.h"

enum { W = 64, H = 48 };
static double now[H][W], old[H][W];
static float image[H][W], blurred[H][W];
static uint8_t cells[H][W], fresh[H][W];
static uint32_t costs[H][W];
static int16_t samples[H * W];

static NOINLINE void wave(void) {
  for (uint32_t y = 1; y < H - 1; y++)
    for (uint32_t x = 1; x < W - 1; x++)
      old[y][x] = 1.9 * now[y][x] - 0.9 * old[y][x] +
                  0.1 * (now[y - 1][x] + now[y + 1][x] + now[y][x - 1] + now[y][x + 1] -
                         4 * now[y][x]);
  for (uint32_t y = 0; y < H; y++)
    for (uint32_t x = 0; x < W; x++) {
      const double t = now[y][x];
      now[y][x] = old[y][x];
      old[y][x] = t;
    }
}

static NOINLINE void blur(void) {
  static const float kernel[3][3] = {{1, 2, 1}, {2, 4, 2}, {1, 2, 1}};
  for (uint32_t y = 1; y < H - 1; y++)
    for (uint32_t x = 1; x < W - 1; x++) {
      float sum = 0;
      for (uint32_t j = 0; j < 3; j++)
        for (uint32_t i = 0; i < 3; i++) sum += kernel[j][i] * image[y + j - 1][x + i - 1];
      blurred[y][x] = sum / 16;
    }
}

static NOINLINE uint32_t life(void) {
  uint32_t alive = 0;
  for (uint32_t y = 1; y < H - 1; y++)
    for (uint32_t x = 1; x < W - 1; x++) {
      uint32_t around = 0;
      for (int j = -1; j <= 1; j++)
        for (int i = -1; i <= 1; i++) around += cells[(int)y + j][(int)x + i];
      fresh[y][x] = around == 3 || (around == 4 && cells[y][x]);
    }
  for (uint32_t y = 0; y < H; y++)
    for (uint32_t x = 0; x < W; x++) alive += cells[y][x] = fresh[y][x];
  return alive;
}

static NOINLINE uint32_t paths(void) {
  for (uint32_t y = 1; y < H; y++)
    for (uint32_t x = 1; x < W; x++) {
      const uint32_t up = costs[y - 1][x], left = costs[y][x - 1];
      costs[y][x] = (up < left ? up : left) + (x * y & 7) + 1;
    }
  return costs[H - 1][W - 1];
}

static NOINLINE int32_t filter(void) {
  int32_t most = 0;
  for (uint32_t i = 4; i < H * W; i++) {
    const int32_t sum = samples[i] * 3 - samples[i - 1] * 5 + samples[i - 2] * 7 - samples[i - 4];
    samples[i - 4] = (int16_t)(sum >> 3 > 32767 ? 32767 : sum >> 3 < -32768 ? -32768 : sum >> 3);
    if (sum > most) most = sum;
  }
  return most;
}

uint32_t run(uint32_t n) {
  uint32_t seed = 3, sum = 0;
  for (uint32_t y = 0; y < H; y++)
    for (uint32_t x = 0; x < W; x++) {
      const uint32_t r = next_random(&seed);
      now[y][x] = old[y][x] = r % 10;
      image[y][x] = (float)(r % 256);
      cells[y][x] = r & 1;
      samples[y * W + x] = (int16_t)r;
    }
  for (uint32_t i = 0; i < n; i++) {
    wave();
    blur();
    sum += life() + paths() + (uint32_t)filter() + (uint32_t)(int32_t)blurred[i % H][5];
  }
  return sum;
}
