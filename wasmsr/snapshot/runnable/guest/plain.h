/* The plain state: a paused program as parts, one after the other, for a reader that has neither
 * msgpack nor zstd. Python writes it and reads it again (wasmsr/snapshot/runnable/plain_state.py
 * has the layout); this program goes on from it, and writes it anew.
 *
 * Numbers are little-endian. Sections of a snapshot that are arrays keep their kind and layout
 * (docs/snapshot-format.md); the others have kinds from 256 on. */
#ifndef PLAIN_H
#define PLAIN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  PART_GLOBALS = 6,
  PART_TABLES = 7,
  PART_THREADS = 32,
  PART_EXCEPTIONS = 39,
  PART_LIMITS = 256,
  PART_MODULES,
  PART_BUILD,
  PART_SEGMENTS,
  PART_PUSHED,
  PART_TEMPLATE,
  PART_WASI,
  PART_SIZES,
  PART_RUNS,
  PART_PAGES,
  PART_END
};

enum { PLAIN_VERSION = 1 };
extern const uint8_t plain_magic[8];

typedef struct {
  const uint8_t *data;
  size_t size;
} span;

/* All parts of a state, by kind; an absent one is empty. */
typedef struct {
  span parts[PART_END];
} plain_state;

/* Find the parts. NULL, or what is wrong. */
const char *plain_open(plain_state *state, span bytes);

/* Reads numbers and strings; beyond the end it gives zeros and sets `bad`. */
typedef struct {
  const uint8_t *at, *end;
  bool bad;
} reader;

reader read_part(const plain_state *state, uint32_t kind);
uint32_t read_u32(reader *from);
uint64_t read_u64(reader *from);
span read_bytes(reader *from, size_t size);
/* A string: its length, then its bytes. */
span read_string(reader *from);
/* How many of something follow, each of at least `least` bytes: never more than there is room for.
 */
uint32_t read_count(reader *from, size_t least);

/* Bytes that grow; without memory the program ends with a sentence. */
typedef struct {
  uint8_t *data;
  size_t size, room;
} buffer;

void put_bytes(buffer *to, const void *data, size_t size);
void put_u32(buffer *to, uint32_t value);
void put_u64(buffer *to, uint64_t value);
void put_string(buffer *to, span bytes);

/* Inflate (RFC 1951) exactly `to.size` bytes; false for anything else. */
bool inflate_bytes(uint8_t *to, size_t size, span from);

/* BLAKE2b-512 (RFC 7693) with a key of 32 bytes over the eight bytes of a number. */
void blake2b_of_number(const uint8_t *key, uint64_t number, uint8_t *digest);

/* Say a sentence on standard error, after the name of this program. */
void say(const char *sentence);
void say_about(const char *sentence, span name, const char *rest);
/* The same, and end with an exit code. */
_Noreturn void fail(int code, const char *sentence);
_Noreturn void fail_about(int code, const char *sentence, span name, const char *rest);
void *allocate(size_t count, size_t size);
#endif
