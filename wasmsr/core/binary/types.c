/* Types: reading them, which is a subtype of which, and which are equal.
 * Between reading numbers (binary/read.c) and all that checks types: binary/decode.c,
 * compile/validate.c, runtime/store.c, runtime/capture.c. Equality goes by recursive groups: two
 * types are the same if their groups are alike and they have the same place in them, so each is
 * known by one number, of the lowest equal one. Source: WebAssembly specification, section 3.1
 * to 3.3 (Types, Matching) and 5.3. */
#include <stdlib.h>

#include "core/binary/module.h"

const char *wsr_type_name(wsr_type type) {
  if (type & WSR_INDEXED)
    return type & WSR_NOT_NULL ? "a reference to a function of a type"
                               : "a reference to a function of a type, or null";
  switch (type) {
    case WSR_I32: return "i32";
    case WSR_I64: return "i64";
    case WSR_F32: return "f32";
    case WSR_F64: return "f64";
    case WSR_V128: return "v128";
    case WSR_FUNCREF: return "funcref";
    case WSR_EXTERNREF: return "externref";
    case WSR_EXNREF: return "exnref";
    case WSR_NOFUNC: return "nullfuncref";
    case WSR_NOEXTERN: return "nullexternref";
    case WSR_NOEXN: return "nullexnref";
    case WSR_FUNCREF | WSR_NOT_NULL: return "(ref func)";
    case WSR_EXTERNREF | WSR_NOT_NULL: return "(ref extern)";
    case WSR_EXNREF | WSR_NOT_NULL: return "(ref exn)";
    case WSR_ANY_REFERENCE: return "a reference";
    default: return "a value";
  }
}

uint32_t wsr_top_type(wsr_type type) {
  switch (type & 0xFF) {
    case WSR_NOFUNC: return WSR_FUNCREF;
    case WSR_NOEXTERN: return WSR_EXTERNREF;
    case WSR_NOEXN: return WSR_EXNREF;
    case WSR_EQREF:
    case WSR_I31REF:
    case WSR_STRUCTREF:
    case WSR_ARRAYREF:
    case WSR_NONE_REF: return WSR_ANYREF;
    default: return type & 0xFF;
  }
}

/* ---- reading ---- */

/* The feature that a heap type's or packed type's code belongs to, or none. */
static uint32_t feature_of(uint8_t code) {
  switch (code) {
    case 0x78: /* packed i8 and i16 */
    case 0x77:
    case WSR_ARRAYREF:
    case WSR_STRUCTREF:
    case WSR_I31REF:
    case WSR_EQREF:
    case WSR_ANYREF:
    case WSR_NONE_REF: return WSR_FEATURE_GC;
    case 0x68: /* cont, nocont */
    case 0x75: return WSR_FEATURE_STACK_SWITCHING;
    case WSR_EXNREF:
    case WSR_NOEXN: return WSR_FEATURE_EXCEPTIONS;
    case WSR_NOFUNC:
    case WSR_NOEXTERN:
    case 0x63: /* (ref null ht) and (ref ht) */
    case 0x64: return WSR_FEATURE_FUNCTION_REFERENCES;
    default: return WSR_FEATURE_NONE;
  }
}

static bool is_heap_type(uint8_t code) {
  return code == WSR_FUNCREF || code == WSR_EXTERNREF ||
         (code != 0x63 && code != 0x64 && feature_of(code));
}

static bool is_reference_type(uint8_t code) {
  return code < 0x77 && (is_heap_type(code) || feature_of(code));
}

/* Use the feature that the code, which has been read, belongs to. */
static bool use_code(wsr_reader *r, uint8_t code) {
  const uint32_t feature = feature_of(code);
  if (feature == WSR_FEATURE_GC || feature == WSR_FEATURE_STACK_SWITCHING)
    return wsr_lack(r->error, wsr_at(r) - 1, feature);
  return feature ? wsr_use(r, wsr_at(r) - 1, feature) : true;
}

bool wsr_read_heap_type(const wsr_module *m, wsr_reader *r, wsr_type *out) {
  const uint64_t start = wsr_at(r);
  if (r->at < r->end && (*r->at & 0xC0) == 0x40) { /* a negative number of one byte */
    const uint8_t code = *r->at++;
    *out = code;
    if (is_heap_type(code) && code < 0x77) return use_code(r, code);
    return wsr_fail(r->error, WSR_MALFORMED, start, "malformed heap type 0x%02x", code);
  }
  int64_t index;
  if (!wsr_read_signed(r, 33, &index)) return false;
  if (index < 0) return wsr_fail(r->error, WSR_MALFORMED, start, "malformed heap type");
  if (!wsr_use(r, start, WSR_FEATURE_FUNCTION_REFERENCES)) return false;
  if (index >= m->n.types)
    return wsr_fail(r->error, WSR_INVALID, start, "unknown type %u", (uint32_t)index);
  *out = wsr_reference_to(m->subtypes[index].canonical, true);
  return true;
}

/* What begins with `code`, which has been read and begins a reference type. */
static bool reference_type(const wsr_module *m, wsr_reader *r, uint8_t code, wsr_type *out) {
  *out = code;
  if (!use_code(r, code)) return false;
  if (code != 0x63 && code != 0x64) return true;
  if (!wsr_read_heap_type(m, r, out)) return false;
  if (code == 0x64) *out |= WSR_NOT_NULL;
  return true;
}

bool wsr_read_value_type(const wsr_module *m, wsr_reader *r, wsr_type *out) {
  uint8_t code = 0;
  if (!wsr_read_byte(r, &code)) return false;
  *out = code;
  if (code > WSR_V128 && code <= WSR_I32) return true;
  if (code == WSR_V128) return wsr_use(r, wsr_at(r) - 1, WSR_FEATURE_SIMD);
  if (is_reference_type(code)) return reference_type(m, r, code, out);
  if (feature_of(code)) return use_code(r, code);
  return wsr_fail(r->error, WSR_MALFORMED, wsr_at(r) - 1, "malformed value type 0x%02x", code);
}

bool wsr_read_reference_type(const wsr_module *m, wsr_reader *r, wsr_type *out) {
  uint8_t code = 0;
  if (!wsr_read_byte(r, &code)) return false;
  if (is_reference_type(code)) return reference_type(m, r, code, out);
  return wsr_fail(r->error, WSR_MALFORMED, wsr_at(r) - 1, "malformed reference type 0x%02x", code);
}

/* ---- subtypes ---- */

bool wsr_is_subtype(const wsr_subtype *subtypes, wsr_type a, wsr_type b) {
  if (a == b || a == WSR_ANY) return true;
  if (a == WSR_ANY_REFERENCE) return wsr_is_reference(b);
  if (!wsr_is_reference(a) || !wsr_is_reference(b) || wsr_top_type(a) != wsr_top_type(b))
    return false;
  if (b & WSR_NOT_NULL && !(a & WSR_NOT_NULL)) return false;
  const uint32_t heap = b & 0xFF;
  if (!(b & WSR_INDEXED) && heap == wsr_top_type(b)) return true;
  if (!(a & WSR_INDEXED)) return (a & 0xFF) != wsr_top_type(a); /* a bottom type */
  return b & WSR_INDEXED && wsr_descends(subtypes, a >> WSR_INDEX_SHIFT, b >> WSR_INDEX_SHIFT);
}

bool wsr_are_subtypes(const wsr_subtype *subtypes, const wsr_type *a, uint32_t n, const wsr_type *b,
                      uint32_t m) {
  if (n != m) return false;
  for (uint32_t i = 0; i < n; i++)
    if (!wsr_is_subtype(subtypes, a[i], b[i])) return false;
  return true;
}

bool wsr_composite_matches(const wsr_subtype *subtypes, const wsr_composite_type *a,
                           const wsr_composite_type *b) {
  if (a->kind != b->kind) return false;
  const wsr_function_type f = wsr_function_of(a), g = wsr_function_of(b);
  return wsr_are_subtypes(subtypes, g.params, g.n_params, f.params, f.n_params) &&
         wsr_are_subtypes(subtypes, f.results, f.n_results, g.results, g.n_results);
}

/* ---- equality by recursive groups ---- */

/* A type as its group sees it: references into the group by place. */
static wsr_type in_group(const wsr_subtype *group, wsr_type type) {
  if (!(type & WSR_INDEXED)) return type;
  const uint32_t index = type >> WSR_INDEX_SHIFT;
  if (index < group->group || index - group->group >= group->size) return type;
  return (index - group->group) << WSR_INDEX_SHIFT | (type & 0x300) | 1; /* 1 is no type's code */
}

static uint32_t super_in_group(const wsr_subtype *type) {
  if (type->super == WSR_NONE) return WSR_NONE;
  return in_group(type, wsr_reference_to(type->super, true));
}

/* FNV-1a. */
static uint32_t mix(uint32_t hash, uint32_t value) { return (hash ^ value) * 16777619U; }

static uint32_t group_hash(const wsr_composite_type *types, const wsr_subtype *subtypes,
                           uint32_t start) {
  uint32_t hash = mix(2166136261U, subtypes[start].size);
  for (uint32_t i = start; i < start + subtypes[start].size; i++) {
    hash = mix(hash, super_in_group(&subtypes[i]) ^ subtypes[i].final);
    hash = mix(mix(hash, types[i].kind), types[i].n_params);
    for (uint32_t k = 0; k < types[i].n_fields; k++)
      hash = mix(hash, in_group(&subtypes[i], types[i].fields[k]));
  }
  return hash ^ hash >> 15;
}

static bool same_composites(const wsr_subtype *x, const wsr_composite_type *a, const wsr_subtype *y,
                            const wsr_composite_type *b) {
  if (a->kind != b->kind || a->n_params != b->n_params || a->n_fields != b->n_fields) return false;
  for (uint32_t i = 0; i < a->n_fields; i++)
    if (in_group(x, a->fields[i]) != in_group(y, b->fields[i])) return false;
  return true;
}

static bool same_groups(const wsr_composite_type *types, const wsr_subtype *subtypes, uint32_t a,
                        uint32_t b) {
  if (subtypes[a].size != subtypes[b].size) return false;
  for (uint32_t i = 0; i < subtypes[a].size; i++) {
    const wsr_subtype *x = &subtypes[a + i], *y = &subtypes[b + i];
    if (x->final != y->final || super_in_group(x) != super_in_group(y) ||
        !same_composites(x, &types[a + i], y, &types[b + i]))
      return false;
  }
  return true;
}

static uint32_t place_of(const wsr_groups *groups, const wsr_composite_type *types,
                         const wsr_subtype *subtypes, uint32_t start) {
  uint32_t at = group_hash(types, subtypes, start) & (groups->n_slots - 1);
  while (groups->slots[at] && !same_groups(types, subtypes, groups->slots[at] - 1, start))
    at = (at + 1) & (groups->n_slots - 1);
  return at;
}

static bool grow_groups(wsr_groups *groups, const wsr_composite_type *types,
                        const wsr_subtype *subtypes) {
  if (2 * (groups->n + 1) <= groups->n_slots) return true;
  wsr_groups wider = {.n_slots = groups->n_slots ? 2 * groups->n_slots : 64, .n = groups->n};
  wider.slots = calloc(wider.n_slots, sizeof *wider.slots);
  if (!wider.slots) return false;
  for (uint32_t i = 0; i < groups->n_slots; i++)
    if (groups->slots[i])
      wider.slots[place_of(&wider, types, subtypes, groups->slots[i] - 1)] = groups->slots[i];
  free(groups->slots);
  *groups = wider;
  return true;
}

uint32_t wsr_find_group(wsr_groups *groups, const wsr_composite_type *types,
                        const wsr_subtype *subtypes, uint32_t start) {
  if (!grow_groups(groups, types, subtypes)) return WSR_NONE;
  const uint32_t at = place_of(groups, types, subtypes, start);
  if (groups->slots[at]) return groups->slots[at] - 1;
  groups->slots[at] = start + 1;
  groups->n++;
  return start;
}
