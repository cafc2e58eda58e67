/* Memories as pages: which are zero, which differ, copies of some of them, and digests. No function
 * allocates or keeps anything, so the caller can give parts of one memory to several threads. */
#include <stdbool.h>
#include <string.h>

#include "core/pages/sha256.h"
#include "core/wsr.h"

/* ---- zero pages and copies ---- */

static bool any_byte(const uint8_t *data, size_t length) {
  size_t at = 0;
  for (; at + 64 <= length; at += 64) {
    uint64_t words[8];
    memcpy(words, data + at, sizeof words);
    if (words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7])
      return true;
  }
  for (; at < length; at++)
    if (data[at]) return true;
  return false;
}

static size_t page_at(size_t start, size_t length, size_t page) {
  return length - start < page ? length - start : page;
}

size_t wsr_page_map(const uint8_t *data, size_t length, size_t page, uint8_t *nonzero) {
  size_t count = 0;
  for (size_t start = 0, number = 0; start < length; start += page, number++) {
    nonzero[number] = any_byte(data + start, page_at(start, length, page));
    count += nonzero[number];
  }
  return count;
}

size_t wsr_page_differences(const uint8_t *one, const uint8_t *other, size_t length, size_t page,
                            uint8_t *differs) {
  size_t count = 0;
  for (size_t start = 0, number = 0; start < length; start += page, number++) {
    differs[number] = memcmp(one + start, other + start, page_at(start, length, page)) != 0;
    count += differs[number];
  }
  return count;
}

void wsr_copy_pages(uint8_t *to, const uint8_t *from, size_t length) {
  for (size_t start = 0; start < length; start += WSR_PAGE) {
    const size_t n = page_at(start, length, WSR_PAGE);
    if (any_byte(from + start, n)) memcpy(to + start, from + start, n);
  }
}

size_t wsr_flag_runs(const uint8_t *flags, size_t pages, wsr_page_run *runs, size_t room) {
  size_t n = 0;
  for (size_t page = 0; page < pages;) {
    const uint8_t *begin = memchr(flags + page, 1, pages - page);
    if (!begin) break;
    const size_t first = (size_t)(begin - flags);
    const uint8_t *end = memchr(begin, 0, pages - first);
    page = end ? (size_t)(end - flags) : pages;
    if (n < room) runs[n] = (wsr_page_run){first, page - first};
    n++;
  }
  return n;
}

size_t wsr_run_pages(const wsr_page_run *runs, size_t n, size_t pages) {
  size_t sum = 0;
  for (size_t i = 0; i < n; i++) {
    if (runs[i].first > pages || runs[i].count > pages - runs[i].first) return SIZE_MAX;
    if (runs[i].count > SIZE_MAX / WSR_PAGE - sum) return SIZE_MAX;
    sum += (size_t)runs[i].count;
  }
  return sum;
}

size_t wsr_gather(const uint8_t *data, size_t pages, const wsr_page_run *runs, size_t n,
                  uint8_t *to, size_t room) {
  const size_t sum = wsr_run_pages(runs, n, pages);
  if (sum == SIZE_MAX || sum > room) return SIZE_MAX;
  for (size_t i = 0; i < n; i++) {
    const size_t size = (size_t)runs[i].count * WSR_PAGE;
    if (size) memcpy(to, data + (size_t)runs[i].first * WSR_PAGE, size);
    to += size;
  }
  return sum;
}

size_t wsr_copy_runs(uint8_t *to, const uint8_t *from, size_t pages, const wsr_page_run *runs,
                     size_t n) {
  const size_t sum = wsr_run_pages(runs, n, pages);
  if (sum == SIZE_MAX) return SIZE_MAX;
  for (size_t i = 0; i < n; i++) {
    const size_t start = (size_t)runs[i].first * WSR_PAGE;
    wsr_copy_pages(to + start, from + start, (size_t)runs[i].count * WSR_PAGE);
  }
  return sum;
}

size_t wsr_scatter(const uint8_t *from, size_t count, const wsr_page_run *runs, size_t n,
                   uint8_t *data, size_t pages, int fresh) {
  if (wsr_run_pages(runs, n, pages) != count) return SIZE_MAX;
  for (size_t i = 0; i < n; i++) {
    const size_t size = (size_t)runs[i].count * WSR_PAGE;
    uint8_t *to = data + (size_t)runs[i].first * WSR_PAGE;
    if (fresh)
      wsr_copy_pages(to, from, size);
    else if (size)
      memcpy(to, from, size);
    from += size;
  }
  return count;
}

void wsr_xor(uint8_t *to, const uint8_t *one, const uint8_t *other, size_t length) {
  size_t at = 0;
  for (; at + 8 <= length; at += 8) {
    uint64_t a, b;
    memcpy(&a, one + at, 8);
    memcpy(&b, other + at, 8);
    a ^= b;
    memcpy(to + at, &a, 8);
  }
  for (; at < length; at++) to[at] = one[at] ^ other[at];
}

/* ---- digests ---- */

enum { NO_LEVEL = -1 };

/* Write the digests of one message or two of `length` bytes, after a byte `level` if there is one.
 */
static void digest(sha256_functions sha256, int level, const uint8_t *const *from, int n,
                   size_t length, uint8_t *const *to) {
  sha256_state states[2] = {sha256_initial, sha256_initial};
  uint8_t head[2][SHA256_BLOCK];
  const uint64_t total = length + (level != NO_LEVEL);
  size_t at = 0;
  if (level != NO_LEVEL && total >= SHA256_BLOCK) {
    at = SHA256_BLOCK - 1;
    for (int i = 0; i < n; i++) {
      head[i][0] = (uint8_t)level;
      memcpy(head[i] + 1, from[i], at);
      sha256.one(&states[i], head[i], 1);
    }
    level = NO_LEVEL;
  }
  if (level == NO_LEVEL) {
    const size_t blocks = (length - at) / SHA256_BLOCK;
    if (n == 2)
      sha256.two(&states[0], from[0] + at, &states[1], from[1] + at, blocks);
    else if (blocks)
      sha256.one(&states[0], from[0] + at, blocks);
    at += blocks * SHA256_BLOCK;
  }
  for (int i = 0; i < n; i++) {
    size_t rest = length - at;
    if (level != NO_LEVEL) head[i][0] = (uint8_t)level;
    if (rest) memcpy(head[i] + (level != NO_LEVEL), from[i] + at, rest);
    rest += level != NO_LEVEL;
    sha256_end(sha256.one, &states[i], head[i], rest, total);
    sha256_write(&states[i], to[i]);
  }
}

void wsr_sha256(uint32_t variant, const uint8_t *data, size_t length, uint8_t *to) {
  digest(sha256_variant(variant), NO_LEVEL, &data, 1, length, &to);
}

/* Two messages that are to be digested together. */
typedef struct {
  const uint8_t *from[2];
  uint8_t *to[2];
  int n;
} messages;

static void add(messages *m, sha256_functions sha256, int level, const uint8_t *from, size_t length,
                uint8_t *to) {
  m->from[m->n] = from;
  m->to[m->n++] = to;
  if (m->n == 2) {
    digest(sha256, level, m->from, 2, length, m->to);
    m->n = 0;
  }
}

static void finish(messages *m, sha256_functions sha256, int level, size_t length) {
  if (m->n) digest(sha256, level, m->from, m->n, length, m->to);
}

void wsr_page_digests(uint32_t variant, const uint8_t *data, size_t pages, const uint8_t *zero,
                      uint8_t *digests) {
  const sha256_functions sha256 = sha256_variant(variant);
  messages m = {0};
  for (size_t i = 0; i < pages; i++, data += WSR_PAGE, digests += SHA256_DIGEST) {
    if (any_byte(data, WSR_PAGE))
      add(&m, sha256, NO_LEVEL, data, WSR_PAGE, digests);
    else
      memcpy(digests, zero, SHA256_DIGEST);
  }
  finish(&m, sha256, NO_LEVEL, WSR_PAGE);
}

void wsr_block_digests(uint32_t variant, const uint8_t *data, size_t n, size_t size, uint8_t *to) {
  const sha256_functions sha256 = sha256_variant(variant);
  messages m = {0};
  for (size_t i = 0; i < n; i++)
    add(&m, sha256, NO_LEVEL, data + i * size, size, to + i * SHA256_DIGEST);
  finish(&m, sha256, NO_LEVEL, size);
}

void wsr_leaf_digests(uint32_t variant, uint8_t level, const uint8_t *data, size_t length,
                      size_t leaf, uint8_t *digests) {
  const sha256_functions sha256 = sha256_variant(variant);
  messages m = {0};
  for (; length >= leaf; length -= leaf, data += leaf, digests += SHA256_DIGEST)
    add(&m, sha256, level, data, leaf, digests);
  finish(&m, sha256, level, leaf);
  if (length) digest(sha256, level, &data, 1, length, &digests);
}
