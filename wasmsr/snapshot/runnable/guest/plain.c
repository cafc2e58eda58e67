/* Parts, numbers and strings of the plain state. */
#include <stdlib.h>
#include <string.h>

#include "plain.h"

const uint8_t plain_magic[8] = {0x89, 'W', 'S', 'P', '\r', '\n', 0x1a, '\n'};

enum { HEAD = 16, PART_HEAD = 16 };

static size_t padded(size_t size) { return (size + 7) / 8 * 8; }

const char *plain_open(plain_state *state, span bytes) {
  *state = (plain_state){0};
  reader from = {bytes.data, bytes.data + bytes.size, false};
  const span magic = read_bytes(&from, 8);
  if (from.bad || memcmp(magic.data, plain_magic, 8) != 0) return "it does not begin as a state";
  if (read_u32(&from) != PLAIN_VERSION) return "it has another version";
  const uint32_t parts = read_u32(&from);
  uint32_t last = 0;
  for (uint32_t i = 0; i < parts; i++) {
    const uint32_t kind = read_u32(&from), flags = read_u32(&from);
    const uint64_t size = read_u64(&from);
    if (from.bad || flags || kind >= PART_END || kind <= last) return "it has a part out of order";
    if (size > SIZE_MAX - 8) return "it has a part that is too large";
    state->parts[kind] = read_bytes(&from, (size_t)size);
    read_bytes(&from, padded((size_t)size) - (size_t)size);
    if (from.bad) return "it ends too early";
    last = kind;
  }
  return from.at == from.end ? NULL : "something follows it";
}

reader read_part(const plain_state *state, uint32_t kind) {
  const span part = state->parts[kind];
  return (reader){part.data, part.data + part.size, false};
}

span read_bytes(reader *from, size_t size) {
  if ((size_t)(from->end - from->at) < size) {
    from->bad = true;
    from->at = from->end;
    return (span){from->end, 0};
  }
  const span found = {from->at, size};
  from->at += size;
  return found;
}

/* wasm32 is little-endian, as these numbers are; what is read need not be aligned. */
uint32_t read_u32(reader *from) {
  const span found = read_bytes(from, 4);
  uint32_t value = 0;
  memcpy(&value, found.data, found.size);
  return value;
}

uint64_t read_u64(reader *from) {
  const span found = read_bytes(from, 8);
  uint64_t value = 0;
  memcpy(&value, found.data, found.size);
  return value;
}

span read_string(reader *from) { return read_bytes(from, read_u32(from)); }

uint32_t read_count(reader *from, size_t least) {
  const uint32_t count = read_u32(from);
  if (count <= (size_t)(from->end - from->at) / least) return count;
  from->bad = true;
  return 0;
}

void *allocate(size_t count, size_t size) {
  void *const found = calloc(count ? count : 1, size);
  if (!found) fail(1, "the engine has too little memory for the program");
  return found;
}

void put_bytes(buffer *to, const void *data, size_t size) {
  if (!size) return;
  if (size > SIZE_MAX / 2 - to->size) fail(1, "the state is too large");
  if (to->size + size > to->room) {
    const size_t needed = to->size + size; /* at most half of SIZE_MAX, so that room is one too */
    const size_t room = needed + needed / 2 + 256;
    uint8_t *const grown = realloc(to->data, room);
    if (!grown) fail(1, "the engine has too little memory for the state");
    to->data = grown;
    to->room = room;
  }
  memcpy(to->data + to->size, data, size);
  to->size += size;
}

void put_u32(buffer *to, uint32_t value) { put_bytes(to, &value, sizeof value); }

void put_u64(buffer *to, uint64_t value) { put_bytes(to, &value, sizeof value); }

void put_string(buffer *to, span bytes) {
  put_u32(to, (uint32_t)bytes.size);
  put_bytes(to, bytes.data, bytes.size);
}
