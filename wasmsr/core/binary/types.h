/* Value types, and types that are equal to or subtypes of others. Source: WebAssembly
 * specification, sections 2.3 (Types) and 3.3 (Matching). */
#ifndef WSR_TYPES_H
#define WSR_TYPES_H
#include "core/binary/reader.h"

enum {
  WSR_I32 = 0x7F,
  WSR_I64 = 0x7E,
  WSR_F32 = 0x7D,
  WSR_F64 = 0x7C,
  WSR_V128 = 0x7B,
  WSR_FUNCREF = 0x70, /* heap types: alone, the nullable references to them */
  WSR_EXTERNREF = 0x6F,
  WSR_EXNREF = 0x69,
  WSR_ANYREF = 0x6E,
  WSR_EQREF = 0x6D,
  WSR_I31REF = 0x6C,
  WSR_STRUCTREF = 0x6B,
  WSR_ARRAYREF = 0x6A,
  WSR_NONE_REF = 0x71,
  WSR_NOFUNC = 0x73,
  WSR_NOEXTERN = 0x72,
  WSR_NOEXN = 0x74,
  WSR_ANY = 0,               /* the validator's unknown type in unreachable code, */
  WSR_ANY_REFERENCE = 0x100, /* and its unknown reference that is not null */
  /* what wsr.h says of a wsr_type's other bits */
  WSR_NOT_NULL = 0x100,
  WSR_INDEXED = 0x200,
  WSR_INDEX_SHIFT = 10
};

/* The kinds of composite types, by the binary format's codes. Functions are the only one today. */
enum { WSR_FUNCTION_TYPE = 0x60 };

/* A composite type (2.3.8): its kind, and the types of its fields. The fields of a function type
 * are its parameters, followed by its results. */
typedef struct {
  const wsr_type *fields;
  uint32_t n_fields;
  uint32_t n_params; /* of a function type: how many of the fields are parameters */
  uint8_t kind;
} wsr_composite_type;

/* What the type section says of a type beside its composite type. */
typedef struct {
  uint32_t canonical;   /* in a module: the lowest index of an equal type */
  uint32_t super;       /* canonical, or WSR_NONE */
  uint32_t group, size; /* the recursive group that it belongs to: its first type, and how many */
  uint8_t depth;        /* supertypes above it */
  bool final;
} wsr_subtype;

/* Recursive groups by content: a hash table, and how many it holds. */
typedef struct {
  uint32_t *slots;     /* a group's first type plus one, 0 is free */
  uint32_t n_slots, n; /* n_slots is a power of two */
} wsr_groups;

static inline bool wsr_is_reference(wsr_type type) {
  const uint32_t code = type & 0xFF;
  return code >= WSR_EXNREF && code <= WSR_NOEXN;
}
/* Slots that a value takes, of one or of many. */
static inline uint32_t wsr_slots(wsr_type type) { return type == WSR_V128 ? 2 : 1; }
static inline uint32_t wsr_slots_of(const wsr_type *types, uint32_t n) {
  uint32_t slots = n;
  for (uint32_t i = 0; i < n; i++) slots += types[i] == WSR_V128;
  return slots;
}
static inline wsr_type wsr_reference_to(uint32_t type_index, bool null) {
  return type_index << WSR_INDEX_SHIFT | WSR_INDEXED | (null ? 0 : WSR_NOT_NULL) | WSR_FUNCREF;
}
const char *wsr_type_name(wsr_type type);
/* Read a type; the module knows which type indices there are. */
bool wsr_read_value_type(const wsr_module *module, wsr_reader *r, wsr_type *out);
bool wsr_read_reference_type(const wsr_module *module, wsr_reader *r, wsr_type *out);
/* A heap type, as the reference to it that may be null. */
bool wsr_read_heap_type(const wsr_module *module, wsr_reader *r, wsr_type *out);
/* Whether every value of type `a` is one of type `b` (3.3). */
bool wsr_is_subtype(const wsr_subtype *subtypes, wsr_type a, wsr_type b);
bool wsr_are_subtypes(const wsr_subtype *subtypes, const wsr_type *a, uint32_t n, const wsr_type *b,
                      uint32_t m);
/* Whether function type `a` is `b` or declared a subtype of it; both canonical. */
static inline bool wsr_descends(const wsr_subtype *subtypes, uint32_t a, uint32_t b) {
  while (a != b && a != WSR_NONE) a = subtypes[a].super;
  return a == b;
}
/* Whether composite type `a` matches `b`, as a type must match its supertype (3.3.9). */
bool wsr_composite_matches(const wsr_subtype *subtypes, const wsr_composite_type *a,
                           const wsr_composite_type *b);
/* A function type as the public header has it; it refers to the fields of `type`. */
static inline wsr_function_type wsr_function_of(const wsr_composite_type *type) {
  return (wsr_function_type){.params = type->fields,
                             .results = type->fields + type->n_params,
                             .n_params = type->n_params,
                             .n_results = type->n_fields - type->n_params};
}
/* The first type of the group that equals the one at `start`, entered before; if there is none,
 * enter this one and return `start`. WSR_NONE without memory. */
uint32_t wsr_find_group(wsr_groups *groups, const wsr_composite_type *types,
                        const wsr_subtype *subtypes, uint32_t start);

/* The type of addresses in a memory or table. */
static inline wsr_type wsr_address_type(const wsr_bounds *bounds) {
  return bounds->address64 ? WSR_I64 : WSR_I32;
}

#endif
