/* Packing of bytes: matches by hash chains, run lengths, Huffman code lengths, bit streams,
 * checksums, base 64, and unpacking again. */
#include "../kernels/kernel.h"

enum { SIZE = 8192 };
static uint8_t plain[SIZE], packed[2 * SIZE], again[SIZE + 64];
static uint16_t heads[4096];
static uint32_t counts[256];
static uint64_t bits;
static uint32_t n_bits;
static uint8_t *out;

static NOINLINE uint32_t pack(void) {
  uint8_t *to = packed;
  for (uint32_t i = 0; i < 4096; i++) heads[i] = 0;
  for (uint32_t at = 0; at < SIZE;) {
    uint32_t best = 0, from = 0;
    if (at + 4 < SIZE) {
      const uint32_t key =
          (plain[at] | plain[at + 1] << 8 | plain[at + 2] << 16) * 0x9E3779B1U >> 20;
      from = heads[key];
      heads[key] = (uint16_t)at;
      if (from < at)
        while (best < 66 && at + best < SIZE && plain[from + best] == plain[at + best]) best++;
    }
    if (best >= 4) {
      *to++ = (uint8_t)(0x80 | (best - 4));
      *to++ = (uint8_t)((at - from) >> 8);
      *to++ = (uint8_t)(at - from);
      at += best;
    } else {
      *to++ = 1;
      *to++ = plain[at++];
    }
  }
  return (uint32_t)(to - packed);
}

static NOINLINE uint32_t unpack(uint32_t size) {
  const uint8_t *from = packed, *const end = packed + size;
  uint8_t *to = again;
  while (from < end) {
    const uint32_t head = *from++;
    if (head & 0x80) {
      const uint32_t n = (head & 0x7F) + 4, back = (uint32_t)from[0] << 8 | from[1];
      from += 2;
      for (uint32_t i = 0; i < n; i++, to++) *to = to[-(int32_t)back];
    } else {
      for (uint32_t i = 0; i < head; i++) *to++ = *from++;
    }
  }
  uint32_t a = 1, b = 0;
  for (const uint8_t *p = again; p < to; p++) {
    a = (a + *p) % 65521;
    b = (b + a) % 65521;
  }
  return b << 16 | a;
}

static inline void put(uint32_t value, uint32_t width) {
  bits |= (uint64_t)value << n_bits;
  n_bits += width;
  while (n_bits >= 8) {
    *out++ = (uint8_t)bits;
    bits >>= 8;
    n_bits -= 8;
  }
}

static NOINLINE uint32_t stream(void) {
  out = packed;
  bits = n_bits = 0;
  for (uint32_t i = 0; i < 256; i++) counts[i] = 0;
  for (uint32_t i = 0; i < SIZE; i++) counts[plain[i]]++;
  for (uint32_t i = 0; i < SIZE; i++) {
    const uint32_t width = counts[plain[i]] > 200 ? 4 : 9;
    put(plain[i] & ((1U << width) - 1), width);
  }
  return (uint32_t)(out - packed);
}

static NOINLINE uint32_t base64(void) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint32_t sum = 0;
  for (uint32_t i = 0; i + 2 < SIZE; i += 3) {
    const uint32_t v = (uint32_t)plain[i] << 16 | (uint32_t)plain[i + 1] << 8 | plain[i + 2];
    for (int32_t shift = 18; shift >= 0; shift -= 6)
      sum = sum * 31 + (uint8_t)digits[v >> shift & 63];
  }
  return sum;
}

uint32_t run(uint32_t n) {
  uint32_t seed = 9, sum = 0;
  for (uint32_t i = 0; i < SIZE; i++)
    plain[i] =
        i > 40 && next_random(&seed) % 4 ? plain[i - 37] : (uint8_t)(next_random(&seed) % 90);
  for (uint32_t i = 0; i < n; i++) {
    sum += unpack(pack());
    sum += stream() ^ base64();
    plain[i % SIZE]++;
  }
  return sum;
}
