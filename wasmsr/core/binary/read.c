/* Reading LEB128 numbers and opcodes, and saying what is wrong with them.
 * The lowest floor of the way from bytes to code: binary/decode.c, compile/validate.c and
 * compile/precise.c use it. Source: WebAssembly specification, section 5.2 (Values). */
#include <stdarg.h>
#include <stdio.h>

#include "core/binary/reader.h"

bool wsr_fail(wsr_error *error, uint32_t kind, uint64_t offset, const char *format, ...) {
  if (!error) return false;
  error->kind = kind;
  error->offset = offset;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error->message, sizeof error->message, format, arguments);
  va_end(arguments);
  return false;
}

bool wsr_lack(wsr_error *error, uint64_t offset, uint32_t feature) {
  if (!error) return false;
  error->feature = wsr_feature_names[feature];
  return wsr_fail(error, WSR_UNSUPPORTED, offset, "the module needs the feature \"%s\", which %s",
                  error->feature,
                  wsr_features_built & WSR_FEATURE_BIT(feature) ? "is switched off"
                                                                : "this engine does not have");
}

bool wsr_use(wsr_reader *r, uint64_t offset, uint32_t feature) {
  if (r->off & WSR_FEATURE_BIT(feature)) return wsr_lack(r->error, offset, feature);
  if (r->used) *r->used |= WSR_FEATURE_BIT(feature);
  return true;
}

bool wsr_read_byte(wsr_reader *r, uint8_t *out) {
  if (r->at >= r->end) return wsr_fail(r->error, WSR_MALFORMED, wsr_at(r), "unexpected end");
  *out = *r->at++;
  return true;
}

bool wsr_read_unsigned(wsr_reader *r, unsigned bits, uint64_t *out) {
  uint64_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    uint8_t byte = 0;
    if (!wsr_read_byte(r, &byte)) return false;
    const unsigned left = bits - shift; /* at least 1: ceil(bits / 7) bytes are all we read */
    if (left <= 7) {
      if (byte & 0x80)
        return wsr_fail(r->error, WSR_MALFORMED, wsr_at(r) - 1, "integer representation too long");
      if (left < 7 && byte >> left)
        return wsr_fail(r->error, WSR_MALFORMED, wsr_at(r) - 1, "integer too large");
    }
    value |= (uint64_t)(byte & 0x7F) << shift;
    if (!(byte & 0x80)) {
      *out = value;
      return true;
    }
  }
}

bool wsr_read_signed(wsr_reader *r, unsigned bits, int64_t *out) {
  uint64_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    uint8_t byte = 0;
    if (!wsr_read_byte(r, &byte)) return false;
    const unsigned left = bits - shift;
    if (left <= 7) {
      if (byte & 0x80)
        return wsr_fail(r->error, WSR_MALFORMED, wsr_at(r) - 1, "integer representation too long");
      /* the bits above the sign must repeat it */
      const unsigned sign_and_above = (0x7FU << (left - 1)) & 0x7FU;
      if ((byte & sign_and_above) != 0 && (byte & sign_and_above) != sign_and_above)
        return wsr_fail(r->error, WSR_MALFORMED, wsr_at(r) - 1, "integer too large");
    }
    value |= (uint64_t)(byte & 0x7F) << shift;
    if (!(byte & 0x80)) {
      if (byte & 0x40 && shift + 7 < 64) value |= ~(uint64_t)0 << (shift + 7);
      memcpy(out, &value, sizeof value);
      return true;
    }
  }
}

bool wsr_read_opcode(wsr_reader *r, uint32_t *op) {
  const uint64_t start = wsr_at(r);
  uint8_t byte = 0;
  if (!wsr_read_byte(r, &byte)) return false;
  uint32_t code = byte;
  uint32_t row = wsr_row_of[byte];
  if (byte == 0xFC) {
    uint32_t second;
    if (!wsr_read_u32(r, &second)) return false;
    row = second < 32 ? wsr_row_of_fc[second] : 0;
    code = 0xFC00 | (second < 0x100 ? second : 0xFF);
  } else if (byte == 0xFD) {
    uint32_t second;
    if (!wsr_read_u32(r, &second)) return false;
    row = second < sizeof wsr_row_of_fd / sizeof *wsr_row_of_fd ? wsr_row_of_fd[second] : 0;
    code = 0xFD0000 | (second < 0x10000 ? second : 0xFFFF);
  } else if (byte == 0xFE) {
    uint32_t second;
    if (!wsr_read_u32(r, &second)) return false;
    row = second < sizeof wsr_row_of_fe / sizeof *wsr_row_of_fe ? wsr_row_of_fe[second] : 0;
    code = 0xFE00 | (second < 0x100 ? second : 0xFF);
  }
  if (row) {
    *op = row - 1;
    const uint32_t feature = wsr_opcode_table[row - 1].feature;
    return feature ? wsr_use(r, start, feature) : true;
  }
  for (uint32_t i = 0; i < wsr_n_unsupported; i++)
    if (code >= wsr_unsupported[i].first && code <= wsr_unsupported[i].last)
      return wsr_lack(r->error, start, wsr_unsupported[i].feature);
  return wsr_fail(r->error, WSR_MALFORMED, start, "illegal opcode 0x%02x", code);
}
