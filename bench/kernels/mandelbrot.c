/* The Mandelbrot set on a grid, doubles in registers. */
#include "kernel.h"

uint32_t run(uint32_t n) {
  uint32_t sum = 0;
  for (uint32_t y = 0; y < n; y++)
    for (uint32_t x = 0; x < 64; x++) {
      const double cr = x / 32.0 - 1.5, ci = y * 2.0 / n - 1;
      double zr = 0, zi = 0;
      uint32_t i = 0;
      for (; i < 100 && zr * zr + zi * zi < 4; i++) {
        const double t = zr * zr - zi * zi + cr;
        zi = 2 * zr * zi + ci;
        zr = t;
      }
      sum = sum * 3 + i;
    }
  return sum;
}
