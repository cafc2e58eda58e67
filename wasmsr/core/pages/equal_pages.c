/* Equal pages of memories are stored once, in the order of first use. A hash finds candidates, and
 * a comparison decides. The hash has a secret key, so no program can make pages of equal hash that
 * would make a scan quadratic. */
#include <string.h>

#include "core/wsr.h"

/* NH: the sum of products of neighbouring words, to each of which a word of the key is added.
 * Source: Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC: Fast and Secure Message
 * Authentication", 1999, section 4. */
static uint64_t page_hash(const uint32_t *key, const uint8_t *page, uint32_t *any) {
  uint64_t sum = 0, other = 0;
  uint32_t seen = 0;
  for (size_t i = 0; i < WSR_PAGE / 4; i += 4) {
    uint32_t w[4];
    memcpy(w, page + 4 * i, sizeof w);
    seen |= w[0] | w[1] | w[2] | w[3];
    sum += (uint64_t)(w[0] + key[i]) * (w[1] + key[i + 1]);
    other += (uint64_t)(w[2] + key[i + 2]) * (w[3] + key[i + 3]);
  }
  *any = seen;
  return sum + other;
}

size_t wsr_page_hashes(const uint32_t *key, const uint8_t *data, size_t pages, uint64_t *hashes) {
  size_t count = 0;
  for (size_t i = 0; i < pages; i++, data += WSR_PAGE) {
    uint32_t any;
    const uint64_t hash = page_hash(key, data, &any);
    hashes[i] = !any ? 0 : hash ? hash : 1;
    count += any != 0;
  }
  return count;
}

/* Return the last source that begins at a stored page or before it. */
static const wsr_page_entry *source_of(const wsr_equal_pages *equal, uint32_t number) {
  uint32_t low = 0, high = equal->n_sources;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (equal->sources[middle].stored <= number)
      low = middle;
    else
      high = middle;
  }
  return &equal->sources[low];
}

static const uint8_t *bytes_of(const wsr_equal_pages *equal, const wsr_page_entry *source,
                               uint32_t number) {
  const size_t page = (size_t)source->first + (number - source->stored);
  return equal->spaces[source->space] + page * WSR_PAGE;
}

/* Return the number of the stored page that is equal to `page`, or `equal->stored` where there is
 * none; then `*free` is the place in the table for it. */
static uint32_t find(const wsr_equal_pages *equal, uint64_t hash, const uint8_t *page,
                     uint32_t *free) {
  const uint32_t mask = (uint32_t)(((uint64_t)1 << equal->bits) - 1);
  uint32_t at = (uint32_t)(hash * equal->multiplier >> (64 - equal->bits));
  for (; equal->table[at]; at = (at + 1) & mask) {
    const uint32_t number = equal->table[at] - 1;
    if (equal->hashes[number] == hash &&
        memcmp(bytes_of(equal, source_of(equal, number), number), page, WSR_PAGE) == 0)
      return number;
  }
  *free = at;
  return equal->stored;
}

static void append(wsr_page_entry *entries, uint32_t *n, wsr_page_entry entry) {
  if (*n) {
    wsr_page_entry *last = &entries[*n - 1];
    if (last->space == entry.space && last->first + last->count == entry.first &&
        last->stored + last->count == entry.stored) {
      last->count++;
      return;
    }
  }
  entries[(*n)++] = entry;
}

int wsr_add_pages(wsr_equal_pages *equal, uint32_t space, const uint64_t *hashes, uint32_t pages) {
  uint32_t left = equal->room - equal->n_entries;
  for (uint32_t page = 0; page < pages; page++) {
    const uint64_t hash = hashes[page];
    if (!hash) continue;
    if (!left--) return 0;
    uint32_t place = 0;
    const uint32_t number =
        find(equal, hash, equal->spaces[space] + (size_t)page * WSR_PAGE, &place);
    const wsr_page_entry entry = {space, page, 1, number};
    if (number == equal->stored) {
      equal->table[place] = number + 1;
      equal->hashes[number] = hash;
      append(equal->sources, &equal->n_sources, entry);
      equal->stored++;
    }
    append(equal->entries, &equal->n_entries, entry);
  }
  return 1;
}

int wsr_stored_pages(const wsr_equal_pages *equal, uint32_t first, uint32_t count, uint8_t *to) {
  if (first > equal->stored || count > equal->stored - first) return 0;
  const wsr_page_entry *source = source_of(equal, first);
  for (; count; source++) {
    const uint32_t left = source->count - (first - source->stored);
    const uint32_t n = left < count ? left : count;
    memcpy(to, bytes_of(equal, source, first), (size_t)n * WSR_PAGE);
    to += (size_t)n * WSR_PAGE;
    first += n;
    count -= n;
  }
  return 1;
}
