/* SHA-256 over whole blocks, in the ways that this CPU may have. The file of pages and digest trees
 * uses it; nothing else does. Source: FIPS 180-4. */
#ifndef WSR_SHA256_H
#define WSR_SHA256_H
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) || defined(__i386__)
#define SHA256_ON_X86
#elif defined(__aarch64__) && !defined(__AARCH64EB__)
/* Before version 16, clang has the instructions only where it may use them everywhere. */
#if !defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_SHA2)
#define SHA256_ON_ARM
#endif
#endif

enum { SHA256_BLOCK = 64, SHA256_DIGEST = 32 };

typedef struct {
  uint32_t words[8];
} sha256_state;

extern const sha256_state sha256_initial;
extern const uint32_t sha256_constants[64];

/* Take `blocks` blocks of each of two messages. A CPU with SHA-256 instructions waits for the
 * result of each, so it takes two messages in little more time than one. */
typedef void sha256_two(sha256_state *a, const uint8_t *from_a, sha256_state *b,
                        const uint8_t *from_b, size_t blocks);
/* Take `blocks` blocks of one message. */
typedef void sha256_one(sha256_state *state, const uint8_t *from, size_t blocks);

typedef struct {
  sha256_one *one;
  sha256_two *two;
} sha256_functions;

/* Return the functions of a variant (enum of wsr.h); the portable ones where it is not built. */
sha256_functions sha256_variant(uint32_t variant);

/* The variants that are built for some CPUs only. */
sha256_one sha256_one_x86, sha256_one_arm;
sha256_two sha256_two_x86, sha256_two_arm;

/* Write the digest of a message whose blocks have all been taken. */
void sha256_write(const sha256_state *state, uint8_t *digest);
/* Take the last `length` bytes, fewer than a block, of a message of `total` bytes, and its end. */
void sha256_end(sha256_one *one, sha256_state *state, const uint8_t *rest, size_t length,
                uint64_t total);

#endif
