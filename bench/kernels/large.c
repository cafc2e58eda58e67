/* Code of one large function: more live values than any machine has registers. */
#include "kernel.h"

#define EACH(X) \
  X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) \
  X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
#define BEGIN(i) uint32_t v##i = next_random(&seed);
#define MIX(i) v##i = (v##i ^ t) * 0x85EBCA6BU, t += v##i >> 13, t ^= v##i << 7;
#define CHOOSE(i) if (t >> (i) & 1) t += v##i; else t -= v##i ^ (i);
#define SUM(i) ^ v##i

uint32_t run(uint32_t n) {
  uint32_t seed = 13, t = n;
  EACH(BEGIN)
  for (uint32_t round = 0; round < n; round++) {
    EACH(MIX)
    EACH(CHOOSE)
  }
  return t EACH(SUM);
}
