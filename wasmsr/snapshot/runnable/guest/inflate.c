/* Inflate. Source: RFC 1951, "DEFLATE Compressed Data Format Specification". The bytes are not
 * trusted: nothing outside the two buffers is touched. */
#include <string.h>

#include "plain.h"

enum { MOST_BITS = 15, MOST_SYMBOLS = 288, MOST_DISTANCES = 30, FIRST_BITS = 10 };

typedef struct {
  const uint8_t *at, *end;
  uint64_t bits;
  uint32_t count; /* bits that are in `bits` */
} bit_reader;

/* A canonical Huffman code. Codes of up to FIRST_BITS bits are found in `fast`: the symbol, and in
 * the upper bits the length; longer ones by counting. */
typedef struct {
  uint16_t fast[1 << FIRST_BITS];
  uint16_t counts[MOST_BITS + 1];
  uint16_t symbols[MOST_SYMBOLS];
} huffman;

static void refill(bit_reader *from) {
  while (from->count <= 56 && from->at < from->end) {
    from->bits |= (uint64_t)*from->at++ << from->count;
    from->count += 8;
  }
}

/* The next `n` bits (at most 16); -1 at the end. */
static int take(bit_reader *from, uint32_t n) {
  if (from->count < n) refill(from);
  if (from->count < n) return -1;
  const int value = (int)(from->bits & ((1u << n) - 1));
  from->bits >>= n;
  from->count -= n;
  return value;
}

static bool build(huffman *code, const uint8_t *lengths, uint32_t n) {
  memset(code, 0, sizeof *code);
  for (uint32_t i = 0; i < n; i++) code->counts[lengths[i]]++;
  code->counts[0] = 0;
  int left = 1;
  uint16_t offsets[MOST_BITS + 2] = {0};
  for (uint32_t length = 1; length <= MOST_BITS; length++) {
    left = left * 2 - code->counts[length];
    if (left < 0) return false; /* more codes than there are */
    offsets[length + 1] = (uint16_t)(offsets[length] + code->counts[length]);
  }
  uint16_t next[MOST_BITS + 1] = {0};
  uint32_t value = 0;
  for (uint32_t length = 1; length <= MOST_BITS; length++) {
    value = (value + (length > 1 ? code->counts[length - 1] : 0)) << 1;
    next[length] = (uint16_t)value;
  }
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t length = lengths[i];
    if (!length) continue;
    code->symbols[offsets[length]++] = (uint16_t)i;
    const uint32_t forward = next[length]++;
    if (length > FIRST_BITS) continue;
    uint32_t reversed = 0;
    for (uint32_t bit = 0; bit < length; bit++)
      reversed |= (forward >> bit & 1) << (length - 1 - bit);
    for (uint32_t at = reversed; at < 1 << FIRST_BITS; at += 1u << length)
      code->fast[at] = (uint16_t)(length << 9 | i);
  }
  return true;
}

static int symbol(bit_reader *from, const huffman *code) {
  if (from->count < MOST_BITS) refill(from);
  const uint32_t found = code->fast[from->bits & ((1 << FIRST_BITS) - 1)];
  const uint32_t known = found >> 9;
  if (known) {
    if (known > from->count) return -1;
    from->bits >>= known;
    from->count -= known;
    return (int)(found & 511);
  }
  int value = 0, first = 0, index = 0;
  for (uint32_t length = 1; length <= MOST_BITS; length++) {
    const int bit = take(from, 1);
    if (bit < 0) return -1;
    value |= bit;
    const int count = code->counts[length];
    if (value - count < first) return code->symbols[index + (value - first)];
    index += count;
    first = (first + count) << 1;
    value <<= 1;
  }
  return -1;
}

static const uint16_t length_base[29] = {3,  4,  5,  6,   7,   8,   9,   10,  11, 13,
                                         15, 17, 19, 23,  27,  31,  35,  43,  51, 59,
                                         67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t length_bits[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                        2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t distance_base[30] = {
    1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
    193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
static const uint8_t distance_bits[30] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                          6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

static bool coded_block(bit_reader *from, uint8_t *to, size_t size, size_t *done,
                        const huffman *literals, const huffman *distances) {
  for (;;) {
    const int found = symbol(from, literals);
    if (found < 0) return false;
    if (found < 256) {
      if (*done == size) return false;
      to[(*done)++] = (uint8_t)found;
      continue;
    }
    if (found == 256) return true;
    if (found > 285) return false;
    const int more = take(from, length_bits[found - 257]);
    const int far = symbol(from, distances);
    if (more < 0 || far < 0 || far >= MOST_DISTANCES) return false;
    const int extra = take(from, distance_bits[far]);
    if (extra < 0) return false;
    const size_t length = (size_t)length_base[found - 257] + (size_t)more;
    const size_t distance = (size_t)distance_base[far] + (size_t)extra;
    if (distance > *done || length > size - *done) return false;
    uint8_t *const at = to + *done;
    if (distance >= length)
      memcpy(at, at - distance, length);
    else
      for (size_t i = 0; i < length; i++) at[i] = at[i - distance];
    *done += length;
  }
}

static bool stored_block(bit_reader *from, uint8_t *to, size_t size, size_t *done) {
  take(from, from->count % 8);
  const int length = take(from, 16), check = take(from, 16);
  if (length < 0 || check < 0 || length != (~check & 0xFFFF) || (size_t)length > size - *done)
    return false;
  for (int i = 0; i < length; i++) {
    const int byte = take(from, 8);
    if (byte < 0) return false;
    to[(*done)++] = (uint8_t)byte;
  }
  return true;
}

static bool read_codes(bit_reader *from, huffman *literals, huffman *distances) {
  static const uint8_t order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                    11, 4,  12, 3, 13, 2, 14, 1, 15};
  uint8_t lengths[MOST_SYMBOLS + 32] = {0};
  const int n_literals = take(from, 5) + 257, n_distances = take(from, 5) + 1;
  const int n_lengths = take(from, 4) + 4;
  if (n_literals > 286 || n_distances > MOST_DISTANCES || n_literals < 257 || n_lengths < 4)
    return false;
  for (int i = 0; i < n_lengths; i++) {
    const int length = take(from, 3);
    if (length < 0) return false;
    lengths[order[i]] = (uint8_t)length;
  }
  if (!build(literals, lengths, 19)) return false;
  memset(lengths, 0, sizeof lengths);
  for (int at = 0; at < n_literals + n_distances;) {
    const int found = symbol(from, literals);
    if (found < 0) return false;
    if (found < 16) {
      lengths[at++] = (uint8_t)found;
      continue;
    }
    if (found == 16 && at == 0) return false;
    const int more = take(from, found == 16 ? 2 : found == 17 ? 3 : 7);
    if (more < 0) return false;
    int again = more + (found == 18 ? 11 : 3);
    const uint8_t length = found == 16 ? lengths[at - 1] : 0;
    if (again > n_literals + n_distances - at) return false;
    while (again--) lengths[at++] = length;
  }
  return lengths[256] && build(literals, lengths, (uint32_t)n_literals) &&
         build(distances, lengths + n_literals, (uint32_t)n_distances);
}

bool inflate_bytes(uint8_t *to, size_t size, span bytes) {
  static huffman literals, distances;
  bit_reader from = {bytes.data, bytes.data + bytes.size, 0, 0};
  size_t done = 0;
  for (int last = 0; !last;) {
    last = take(&from, 1);
    const int kind = take(&from, 2);
    if (last < 0 || kind < 0 || kind == 3) return false;
    if (kind == 0) {
      if (!stored_block(&from, to, size, &done)) return false;
      continue;
    }
    if (kind == 1) {
      uint8_t lengths[MOST_SYMBOLS];
      for (int i = 0; i < MOST_SYMBOLS; i++)
        lengths[i] = (uint8_t)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
      uint8_t fives[MOST_DISTANCES];
      memset(fives, 5, sizeof fives);
      build(&literals, lengths, MOST_SYMBOLS);
      build(&distances, fives, MOST_DISTANCES);
    } else if (!read_codes(&from, &literals, &distances)) {
      return false;
    }
    if (!coded_block(&from, to, size, &done, &literals, &distances)) return false;
  }
  return done == size;
}
