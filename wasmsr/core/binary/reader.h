/* Reading numbers and opcodes of the binary format, and reporting what is wrong with them.
 * Decoder, validator and compiler share it. Source: WebAssembly specification, section 5.2. */
#ifndef WSR_READER_H
#define WSR_READER_H
#include <stdbool.h>
#include <string.h>

#include "core/binary/opcode_table.h"
#include "core/wsr.h"

#define WSR_NONE UINT32_MAX
#define WSR_UNREACHED (UINT32_MAX - 1)

typedef struct {
  const uint8_t *base, *at, *end;
  wsr_error *error;
  uint64_t off;   /* features that are off; none where the bytes have been validated before */
  uint64_t *used; /* features that were met, or NULL */
} wsr_reader;

bool wsr_fail(wsr_error *error, uint32_t kind, uint64_t offset, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 4, 5), cold))
#endif
    ;
bool wsr_lack(wsr_error *error, uint64_t offset, uint32_t feature);
/* Note that the bytes at `offset` need that feature (WSR_FEATURE_): false with the error set where
 * it is off. */
bool wsr_use(wsr_reader *r, uint64_t offset, uint32_t feature);

static inline uint64_t wsr_at(const wsr_reader *r) { return (uint64_t)(r->at - r->base); }

/* The value of a LEB128 number of up to `bits` bits; false with the error set. */
bool wsr_read_unsigned(wsr_reader *r, unsigned bits, uint64_t *out);
bool wsr_read_signed(wsr_reader *r, unsigned bits, int64_t *out);

static inline bool wsr_read_u32(wsr_reader *r, uint32_t *out) {
  if (r->at < r->end && *r->at < 0x80) {
    *out = *r->at++;
    return true;
  }
  uint64_t wide = 0;
  if (!wsr_read_unsigned(r, 32, &wide)) return false;
  *out = (uint32_t)wide;
  return true;
}
bool wsr_read_byte(wsr_reader *r, uint8_t *out);
/* The row index of the next instruction; refuses what is no opcode or needs a lacking feature. */
bool wsr_read_opcode(wsr_reader *r, uint32_t *op);

/* Whether the n bytes (or elements) from `at` lie within `size`. */
static inline bool wsr_within(uint64_t at, uint64_t n, uint64_t size) {
  return n <= size && at <= size - n;
}

#endif
