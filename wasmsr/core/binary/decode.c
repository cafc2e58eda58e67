/* Decode the sections of a binary into a module and validate everything outside function bodies.
 * First step of the way: bytes, module, code, machine. Input is hostile: every length is checked
 * against the bytes that are there before anything is allocated for it.
 * Source: WebAssembly specification, section 5.5 (Modules) and 3.4 (validation of modules). */
#include <stdlib.h>

#include "core/compile/code.h"

#define READ(call)             \
  do {                         \
    if (!(call)) return false; \
  } while (0)

static bool malformed(wsr_reader *r, const char *what) {
  return wsr_fail(r->error, WSR_MALFORMED, wsr_at(r), "%s", what);
}

static bool invalid(wsr_reader *r, const char *what) {
  return wsr_fail(r->error, WSR_INVALID, wsr_at(r), "%s", what);
}

static bool no_memory(wsr_reader *r) {
  return wsr_fail(r->error, WSR_MEMORY, wsr_at(r), "no memory left to decode the module");
}

/* Read a vector's length; each item takes at least `least` bytes, which bounds the allocation. */
static bool read_length(wsr_reader *r, uint32_t least, uint32_t *out) {
  READ(wsr_read_u32(r, out));
  if ((uint64_t)*out * least > (uint64_t)(r->end - r->at))
    return malformed(r, "length out of bounds");
  return true;
}

/* Read the length of a section's vector and check it against the limit. */
static bool read_count(wsr_reader *r, uint32_t least, uint32_t *out) {
  READ(read_length(r, least, out));
  if (*out > WSR_MAX_ITEMS)
    return wsr_fail(r->error, WSR_LIMIT, wsr_at(r), "a section has %u items; %u is the limit", *out,
                    WSR_MAX_ITEMS);
  return true;
}

/* Grow an array by `more` zeroed items of `size` bytes after the `have` it holds. */
static bool extend(wsr_reader *r, void *array, uint32_t have, uint32_t more, size_t size) {
  void **pointer = array;
  if (!more) return true;
  if (more > UINT32_MAX - have) return no_memory(r);
  uint8_t *grown = realloc(*pointer, ((size_t)have + more) * size);
  if (!grown) return no_memory(r);
  memset(grown + (size_t)have * size, 0, (size_t)more * size);
  *pointer = grown;
  return true;
}

/* Specification 5.2.4, and RFC 3629 for what is well-formed. */
static bool valid_utf8(const uint8_t *s, uint32_t length) {
  uint32_t i = 0;
  while (i < length) {
    const uint8_t c = s[i++];
    if (c < 0x80) continue;
    const uint32_t more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
    if (c < 0xC2 || c > 0xF4 || more > length - i) return false;
    uint32_t point = c & (0x3FU >> more);
    for (uint32_t k = 0; k < more; k++, i++) {
      if ((s[i] & 0xC0) != 0x80) return false;
      point = point << 6 | (s[i] & 0x3F);
    }
    if ((more == 2 && (point < 0x800 || (point >= 0xD800 && point < 0xE000))) ||
        (more == 3 && (point < 0x10000 || point > 0x10FFFF)))
      return false;
  }
  return true;
}

static bool read_name(wsr_reader *r, const uint8_t **name, uint32_t *length) {
  READ(read_length(r, 1, length));
  if (!valid_utf8(r->at, *length)) return malformed(r, "malformed UTF-8 encoding");
  *name = r->at;
  r->at += *length;
  return true;
}

/* A bound is a 64-bit number in the format; beyond `most` it is well-formed but not valid. */
static bool read_bound(wsr_reader *r, uint64_t most, const char *what, uint64_t *out) {
  READ(wsr_read_unsigned(r, 64, out));
  return *out <= most ? true : invalid(r, what);
}

enum { HAS_MAXIMUM = 1, SHARED = 2, ADDRESS_64 = 4 };

/* Section 5.3.9 of the specification: a byte of flags, the minimum and, if so flagged, the maximum.
 */
static bool read_limits_flags(wsr_reader *r, wsr_bounds *out) {
  const uint64_t start = wsr_at(r);
  uint8_t flags;
  READ(wsr_read_byte(r, &flags));
  if (flags > (HAS_MAXIMUM | SHARED | ADDRESS_64))
    return wsr_fail(r->error, WSR_MALFORMED, start, "malformed limits flags");
  if (flags & SHARED) return wsr_lack(r->error, start, WSR_FEATURE_SHARED_MEMORY);
  if (flags & ADDRESS_64) READ(wsr_use(r, start, WSR_FEATURE_MEMORY64));
  out->has_maximum = flags & HAS_MAXIMUM;
  out->address64 = (flags & ADDRESS_64) != 0;
  return true;
}

static bool read_limits(wsr_reader *r, uint64_t most, const char *what, wsr_bounds *out) {
  READ(read_bound(r, most, what, &out->minimum));
  if (out->has_maximum) READ(read_bound(r, most, what, &out->maximum));
  if (out->has_maximum && out->minimum > out->maximum)
    return invalid(r, "size minimum must not be greater than maximum");
  return true;
}

static bool read_table_type(const wsr_module *m, wsr_reader *r, wsr_bounds *out) {
  READ(wsr_read_reference_type(m, r, &out->type));
  READ(read_limits_flags(r, out));
  return read_limits(r, out->address64 ? UINT64_MAX : UINT32_MAX,
                     "table size must be at most 2**32 - 1 elements", out);
}

/* Whether a memory type with a page size of its own is here (custom-page-sizes proposal); to
 * the standard its flag alone is malformed. */
static bool has_page_size(const wsr_reader *r) {
  enum { PAGE_SIZE = 8 };
  wsr_reader ahead = *r;
  ahead.error = NULL;
  uint8_t flags;
  uint64_t bound;
  uint32_t size;
  return wsr_read_byte(&ahead, &flags) && flags & PAGE_SIZE && flags < 2 * PAGE_SIZE &&
         wsr_read_unsigned(&ahead, 64, &bound) &&
         (!(flags & HAS_MAXIMUM) || wsr_read_unsigned(&ahead, 64, &bound)) &&
         wsr_read_u32(&ahead, &size);
}

static bool add_memory(wsr_module *m, wsr_reader *r) {
  const uint64_t start = wsr_at(r);
  if (has_page_size(r)) return wsr_lack(r->error, start, WSR_FEATURE_CUSTOM_PAGE_SIZES);
  wsr_bounds *out = &m->memories[m->n.memories++];
  READ(read_limits_flags(r, out));
  if (out->address64)
    READ(read_limits(r, WSR_MAX_PAGES64, "memory size must be at most 2**48 pages", out));
  else
    READ(read_limits(r, WSR_MAX_PAGES, "memory size must be at most 65536 pages (4 GiB)", out));
  if (m->n.memories > WSR_MAX_MEMORIES)
    return wsr_fail(r->error, WSR_LIMIT, start, "a module has more than %u memories",
                    WSR_MAX_MEMORIES);
  return m->n.memories > 1 ? wsr_use(r, start, WSR_FEATURE_MULTI_MEMORY) : true;
}

static bool read_global_type(const wsr_module *m, wsr_reader *r, wsr_global_type *out) {
  uint8_t mutability;
  READ(wsr_read_value_type(m, r, &out->type));
  READ(wsr_read_byte(r, &mutability));
  if (mutability > 1) {
    r->at--;
    return malformed(r, "malformed mutability");
  }
  out->mutability = mutability;
  return true;
}

/* ---- sections ---- */

/* A vector of value types, appended to the pool. */
static bool read_type_vector(wsr_module *m, wsr_reader *r, wsr_type **pool, uint32_t *n) {
  READ(read_length(r, 1, n));
  for (uint32_t i = 0; i < *n; i++) READ(wsr_read_value_type(m, r, (*pool)++));
  if (*n > WSR_MAX_ARITY)
    return wsr_fail(r->error, WSR_LIMIT, wsr_at(r),
                    "a function type has %u parameters or results; %u is the limit", *n,
                    WSR_MAX_ARITY);
  return true;
}

/* Read one type of a group. The types of the group have indices already (5.3.6 to 5.3.8). */
static bool read_sub_type(wsr_module *m, wsr_reader *r, uint32_t index, wsr_type **pool) {
  wsr_subtype *sub = &m->subtypes[index];
  uint8_t form;
  READ(wsr_read_byte(r, &form));
  sub->final = form != 0x50;
  if (form == 0x50 || form == 0x4F) {
    READ(wsr_use(r, wsr_at(r) - 1, WSR_FEATURE_FUNCTION_REFERENCES));
    uint32_t supers, super = 0;
    READ(wsr_read_u32(r, &supers));
    if (supers > 1) return invalid(r, "a type may have one supertype at most");
    if (supers) {
      READ(wsr_read_u32(r, &super));
      if (super >= index)
        return wsr_fail(r->error, WSR_INVALID, wsr_at(r), "unknown type %u", super);
      sub->super = m->subtypes[super].canonical;
    }
    READ(wsr_read_byte(r, &form));
  }
  if (form != WSR_FUNCTION_TYPE) {
    r->at--;
    if (form == 0x5E || form == 0x5F) return wsr_lack(r->error, wsr_at(r), WSR_FEATURE_GC);
    if (form == 0x5D) return wsr_lack(r->error, wsr_at(r), WSR_FEATURE_STACK_SWITCHING);
    return malformed(r, "malformed type form");
  }
  wsr_composite_type *type = &m->types[index];
  uint32_t n_results;
  *type = (wsr_composite_type){.kind = form, .fields = *pool};
  READ(read_type_vector(m, r, pool, &type->n_params));
  READ(read_type_vector(m, r, pool, &n_results));
  type->n_fields = type->n_params + n_results;
  return true;
}

/* A type must fit the supertype that it declares (3.1.3). */
static bool check_super(wsr_module *m, wsr_reader *r, uint32_t index) {
  wsr_subtype *sub = &m->subtypes[index];
  if (sub->super == WSR_NONE) return true;
  const wsr_subtype *super = &m->subtypes[sub->super];
  if (super->depth >= WSR_MAX_SUPERTYPES)
    return wsr_fail(r->error, WSR_LIMIT, wsr_at(r), "a type has more than %u supertypes",
                    WSR_MAX_SUPERTYPES);
  sub->depth = (uint8_t)(super->depth + 1);
  if (super->final || !wsr_composite_matches(m->subtypes, &m->types[index], &m->types[sub->super]))
    return wsr_fail(r->error, WSR_INVALID, wsr_at(r), "sub type %u does not match super type",
                    index);
  return true;
}

/* Types `start` and up are a whole group: name them by the lowest equal ones. */
static bool close_group(wsr_module *m, wsr_reader *r, wsr_groups *groups, uint32_t start) {
  for (uint32_t i = start; i < m->n.types; i++) READ(check_super(m, r, i));
  if (start == m->n.types) return true;
  const uint32_t found = wsr_find_group(groups, m->types, m->subtypes, start);
  if (found == WSR_NONE) return no_memory(r);
  for (uint32_t i = start; found != start && i < m->n.types; i++) {
    m->types[i] = m->types[found + (i - start)];
    m->subtypes[i] = m->subtypes[found + (i - start)];
  }
  return true;
}

/* Room for `more` types after those that there are, as one group. */
static bool open_group(wsr_module *m, wsr_reader *r, uint32_t *room, uint32_t more) {
  const uint32_t start = m->n.types;
  if (more > WSR_MAX_ITEMS - start)
    return wsr_fail(r->error, WSR_LIMIT, wsr_at(r), "there are more than %u types", WSR_MAX_ITEMS);
  if (start + more > *room) {
    const uint32_t wanted = start + more + start / 2 + 16;
    READ(extend(r, &m->types, *room, wanted - *room, sizeof *m->types));
    READ(extend(r, &m->subtypes, *room, wanted - *room, sizeof *m->subtypes));
    *room = wanted;
  }
  for (uint32_t i = start; i < start + more; i++)
    m->subtypes[i] = (wsr_subtype){.canonical = i, .super = WSR_NONE, .group = start, .size = more};
  m->n.types += more;
  return true;
}

static bool read_groups(wsr_module *m, wsr_reader *r, wsr_groups *groups) {
  uint32_t n, room = 0;
  READ(read_count(r, 2, &n));
  /* Each type in a vector takes at least one byte. So this room is enough, and the pool never
   * moves. */
  m->type_pool = malloc(((size_t)(r->end - r->at) + 1) * sizeof *m->type_pool);
  if (!m->type_pool) return no_memory(r);
  wsr_type *pool = m->type_pool;
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t start = m->n.types;
    uint32_t size = 1;
    if (r->at < r->end && *r->at == 0x4E) {
      READ(wsr_use(r, wsr_at(r), WSR_FEATURE_FUNCTION_REFERENCES));
      r->at++;
      READ(read_length(r, 2, &size));
    }
    READ(open_group(m, r, &room, size));
    for (uint32_t k = start; k < start + size; k++) READ(read_sub_type(m, r, k, &pool));
    READ(close_group(m, r, groups, start));
  }
  return true;
}

static bool type_section(wsr_module *m, wsr_reader *r) {
  wsr_groups groups = {0};
  const bool good = read_groups(m, r, &groups);
  free(groups.slots);
  return good;
}

static bool add_function(wsr_module *m, wsr_reader *r, uint32_t type) {
  if (!wsr_is_function_type(m, type)) return invalid(r, "unknown type");
  m->functions[m->n.functions++].type = type;
  return true;
}

/* Read a tag: its attribute, and its type, which must have no results (3.1.9). */
static bool read_tag_type(const wsr_module *m, wsr_reader *r, uint32_t *type) {
  uint8_t attribute;
  READ(wsr_read_byte(r, &attribute));
  if (attribute) {
    r->at--;
    return malformed(r, "malformed tag attribute");
  }
  READ(wsr_read_u32(r, type));
  if (!wsr_is_function_type(m, *type)) return invalid(r, "unknown type");
  if (m->types[*type].n_fields != m->types[*type].n_params)
    return invalid(r, "non-empty tag result type");
  return true;
}

static bool import_section(wsr_module *m, wsr_reader *r) {
  uint32_t n;
  READ(read_count(r, 4, &n));
  READ(extend(r, &m->imports, 0, n, sizeof *m->imports));
  /* Each kind gets room for all imports. The surplus is small and lives as long as the module. */
  READ(extend(r, &m->functions, 0, n, sizeof *m->functions));
  READ(extend(r, &m->tables, 0, n, sizeof *m->tables));
  READ(extend(r, &m->table_inits, 0, n, sizeof *m->table_inits));
  READ(extend(r, &m->memories, 0, n, sizeof *m->memories));
  READ(extend(r, &m->globals, 0, n, sizeof *m->globals));
  READ(extend(r, &m->tags, 0, n, sizeof *m->tags));
  m->n.imports = n;
  for (uint32_t i = 0; i < n; i++) {
    wsr_extern *import = &m->imports[i];
    READ(read_name(r, &import->module, &import->module_length));
    READ(read_name(r, &import->name, &import->name_length));
    uint8_t kind;
    READ(wsr_read_byte(r, &kind));
    import->kind = kind;
    uint32_t type;
    switch (kind) {
      case WSR_FUNCTION:
        import->index = m->n.functions;
        READ(wsr_read_u32(r, &type));
        READ(add_function(m, r, type));
        break;
      case WSR_TABLE:
        import->index = m->n.tables;
        READ(read_table_type(m, r, &m->tables[m->n.tables++]));
        break;
      case WSR_MEMORY_KIND:
        import->index = m->n.memories;
        READ(add_memory(m, r));
        break;
      case WSR_GLOBAL:
        import->index = m->n.globals;
        READ(read_global_type(m, r, &m->globals[m->n.globals++].type));
        break;
      case WSR_TAG:
        import->index = m->n.tags;
        READ(wsr_use(r, wsr_at(r) - 1, WSR_FEATURE_EXCEPTIONS));
        READ(read_tag_type(m, r, &m->tags[m->n.tags++]));
        break;
      default: r->at--; return malformed(r, "malformed import kind");
    }
  }
  m->n.imported_functions = m->n.functions;
  m->n.imported_tables = m->n.tables;
  m->n.imported_memories = m->n.memories;
  m->n.imported_globals = m->n.globals;
  m->n.imported_tags = m->n.tags;
  return true;
}

static bool function_section(wsr_module *m, wsr_reader *r) {
  uint32_t n, type;
  READ(read_count(r, 1, &n));
  READ(extend(r, &m->functions, m->n.functions, n, sizeof *m->functions));
  for (uint32_t i = 0; i < n; i++) {
    READ(wsr_read_u32(r, &type));
    READ(add_function(m, r, type));
  }
  return true;
}

static bool table_section(wsr_module *m, wsr_reader *r) {
  uint32_t n;
  READ(read_count(r, 3, &n));
  READ(extend(r, &m->tables, m->n.tables, n, sizeof *m->tables));
  READ(extend(r, &m->table_inits, m->n.tables, n, sizeof *m->table_inits));
  for (uint32_t i = 0; i < n; i++) {
    wsr_bounds *table = &m->tables[m->n.tables];
    uint8_t form = 0;
    const bool given = r->at < r->end && *r->at == 0x40;
    if (given) {
      READ(wsr_use(r, wsr_at(r), WSR_FEATURE_FUNCTION_REFERENCES));
      r->at++;
      READ(wsr_read_byte(r, &form));
      if (form) return malformed(r, "malformed table");
    }
    READ(read_table_type(m, r, table));
    if (given) {
      m->table_inits[m->n.tables] = (uint32_t)wsr_at(r);
      READ(wsr_check_constant(m, r, table->type, m->n.imported_globals, m->declared));
    } else if (table->type & WSR_NOT_NULL) {
      return invalid(r,
                     "type mismatch: a table of references that are not null needs a first value");
    }
    m->n.tables++;
  }
  return true;
}

static bool memory_section(wsr_module *m, wsr_reader *r) {
  uint32_t n;
  READ(read_count(r, 2, &n));
  READ(extend(r, &m->memories, m->n.memories, n, sizeof *m->memories));
  for (uint32_t i = 0; i < n; i++) READ(add_memory(m, r));
  return true;
}

static bool tag_section(wsr_module *m, wsr_reader *r) {
  uint32_t n;
  READ(wsr_use(r, wsr_at(r), WSR_FEATURE_EXCEPTIONS));
  READ(read_count(r, 2, &n));
  READ(extend(r, &m->tags, m->n.tags, n, sizeof *m->tags));
  for (uint32_t i = 0; i < n; i++) READ(read_tag_type(m, r, &m->tags[m->n.tags++]));
  return true;
}

static bool global_section(wsr_module *m, wsr_reader *r) {
  uint32_t n;
  READ(read_count(r, 3, &n));
  READ(extend(r, &m->globals, m->n.globals, n, sizeof *m->globals));
  for (uint32_t i = 0; i < n; i++) {
    wsr_global_def *global = &m->globals[m->n.globals];
    READ(read_global_type(m, r, &global->type));
    global->init = (uint32_t)wsr_at(r);
    READ(wsr_check_constant(m, r, global->type.type, m->n.globals, m->declared));
    m->n.globals++;
  }
  return true;
}

static bool export_section(wsr_module *m, wsr_reader *r) {
  uint32_t n;
  READ(read_count(r, 3, &n));
  READ(extend(r, &m->exports, 0, n, sizeof *m->exports));
  m->n.exports = n;
  for (uint32_t i = 0; i < n; i++) {
    wsr_extern *item = &m->exports[i];
    uint8_t kind;
    READ(read_name(r, &item->name, &item->name_length));
    READ(wsr_read_byte(r, &kind));
    READ(wsr_read_u32(r, &item->index));
    item->kind = kind;
    const uint32_t counts[] = {m->n.functions, m->n.tables, m->n.memories, m->n.globals, m->n.tags};
    static const char *const unknown[] = {"unknown function", "unknown table", "unknown memory",
                                          "unknown global", "unknown tag"};
    if (kind > WSR_TAG) return malformed(r, "malformed export kind");
    if (item->index >= counts[kind]) return invalid(r, unknown[kind]);
    if (kind == WSR_FUNCTION) m->declared[item->index] = 1;
  }
  return true;
}

static bool element_section(wsr_module *m, wsr_reader *r) {
  uint32_t n;
  READ(read_count(r, 2, &n));
  READ(extend(r, &m->elements, 0, n, sizeof *m->elements));
  m->n.elements = n;
  for (uint32_t i = 0; i < n; i++) {
    wsr_element_def *e = &m->elements[i];
    uint32_t flags;
    READ(wsr_read_u32(r, &flags));
    if (flags > 7) return malformed(r, "malformed elements segment kind");
    e->mode = flags & 1 ? (flags & 2 ? WSR_DECLARATIVE : WSR_PASSIVE) : WSR_ACTIVE;
    e->expressions = flags & 4;
    e->type = e->expressions ? WSR_FUNCREF : WSR_FUNCREF | WSR_NOT_NULL;
    if (e->mode == WSR_ACTIVE) {
      if (flags & 2) READ(wsr_read_u32(r, &e->table));
      if (e->table >= m->n.tables) return invalid(r, "unknown table");
      e->at = (uint32_t)wsr_at(r);
      READ(wsr_check_constant(m, r, wsr_address_type(&m->tables[e->table]), m->n.globals,
                              m->declared));
    }
    if (flags & 3) {
      if (e->expressions) {
        READ(wsr_read_reference_type(m, r, &e->type));
      } else {
        uint8_t kind;
        READ(wsr_read_byte(r, &kind));
        if (kind != 0) {
          r->at--;
          return malformed(r, "malformed element kind");
        }
      }
    }
    if (e->mode == WSR_ACTIVE && !wsr_is_subtype(m->subtypes, e->type, m->tables[e->table].type))
      return invalid(r, "type mismatch: the segment's type is not the table's");
    READ(read_length(r, 1, &e->n_items));
    e->items = (uint32_t)wsr_at(r);
    for (uint32_t k = 0; k < e->n_items; k++) {
      if (e->expressions) {
        READ(wsr_check_constant(m, r, e->type, m->n.globals, m->declared));
      } else {
        uint32_t function;
        READ(wsr_read_u32(r, &function));
        if (function >= m->n.functions) return invalid(r, "unknown function");
        m->declared[function] = 1;
      }
    }
  }
  return true;
}

static bool code_section(wsr_module *m, wsr_reader *r) {
  uint32_t n;
  READ(read_count(r, 1, &n));
  if (n != m->n.functions - m->n.imported_functions)
    return malformed(r, "function and code section have inconsistent lengths");
  for (uint32_t i = 0; i < n; i++) {
    uint32_t size;
    READ(read_length(r, 1, &size));
    wsr_function_def *f = &m->functions[m->n.imported_functions + i];
    f->body = (uint32_t)wsr_at(r);
    r->at += size;
    f->end = (uint32_t)wsr_at(r);
    m->n.code_size += size;
  }
  return true;
}

static bool data_section(wsr_module *m, wsr_reader *r) {
  uint32_t n;
  READ(read_count(r, 2, &n));
  READ(extend(r, &m->data, 0, n, sizeof *m->data));
  m->n.data = n;
  for (uint32_t i = 0; i < n; i++) {
    wsr_data_def *d = &m->data[i];
    uint32_t flags;
    READ(wsr_read_u32(r, &flags));
    if (flags > 2) return malformed(r, "malformed data segment kind");
    d->mode = flags == 1 ? WSR_PASSIVE : WSR_ACTIVE;
    if (flags == 2) READ(wsr_read_u32(r, &d->memory));
    if (d->mode == WSR_ACTIVE) {
      if (d->memory >= m->n.memories)
        return wsr_fail(r->error, WSR_INVALID, wsr_at(r), "unknown memory %u", d->memory);
      d->at = (uint32_t)wsr_at(r);
      READ(wsr_check_constant(m, r, wsr_address_type(&m->memories[d->memory]), m->n.globals,
                              m->declared));
    }
    READ(read_length(r, 1, &d->size));
    d->bytes = (uint32_t)wsr_at(r);
    r->at += d->size;
  }
  return true;
}

static bool start_section(wsr_module *m, wsr_reader *r) {
  READ(wsr_read_u32(r, &m->n.start));
  if (m->n.start >= m->n.functions) return invalid(r, "unknown function");
  if (wsr_type_of(m, m->n.start)->n_fields)
    return invalid(r, "start function must have no parameters and no results");
  return true;
}

static bool data_count_section(wsr_module *m, wsr_reader *r) {
  if (!wsr_read_u32(r, &m->n_data_declared)) return false;
  if (m->n_data_declared ==
      WSR_NONE) /* the section declares a count that means "none"; no module can have so many */
    return malformed(r, "data count and data section have inconsistent lengths");
  return true;
}

typedef bool (*section_reader)(wsr_module *, wsr_reader *);

/* By section id; sections must be in the order of `place`. */
static const section_reader readers[] = {
    NULL,           type_section,   import_section,     function_section, table_section,
    memory_section, global_section, export_section,     start_section,    element_section,
    code_section,   data_section,   data_count_section, tag_section};
static const uint8_t place[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 11, 6};
enum { SECTION_FUNCTION = 3, SECTION_CODE = 10, SECTION_DATA = 11 };

static int compare_names(const void *a, const void *b) {
  const wsr_extern *x = *(const wsr_extern *const *)a, *y = *(const wsr_extern *const *)b;
  const uint32_t least = x->name_length < y->name_length ? x->name_length : y->name_length;
  const int order = memcmp(x->name, y->name, least);
  return order ? order : (x->name_length > y->name_length) - (x->name_length < y->name_length);
}

static bool exports_differ(wsr_module *m, wsr_reader *r) {
  if (m->n.exports < 2) return true;
  const wsr_extern **sorted = malloc(m->n.exports * sizeof *sorted);
  if (!sorted) return no_memory(r);
  for (uint32_t i = 0; i < m->n.exports; i++) sorted[i] = &m->exports[i];
  qsort(sorted, m->n.exports, sizeof *sorted, compare_names);
  bool differ = true;
  for (uint32_t i = 1; differ && i < m->n.exports; i++)
    differ = compare_names(&sorted[i - 1], &sorted[i]) != 0;
  free(sorted);
  return differ ? true : invalid(r, "duplicate export name");
}

static bool decode(wsr_module *m, wsr_reader *r) {
  static const uint8_t magic[4] = {0, 'a', 's', 'm'}, version[4] = {1, 0, 0, 0};
  if (r->end - r->at < 4 || memcmp(r->at, magic, 4) != 0)
    return malformed(r, "magic header not detected");
  r->at += 4;
  if (r->end - r->at < 4 || memcmp(r->at, version, 4) != 0)
    return malformed(r, "unknown binary version");
  r->at += 4;
  uint8_t last = 0;
  bool code_seen = false;
  while (r->at < r->end) {
    uint8_t id;
    uint32_t size;
    READ(wsr_read_byte(r, &id));
    if (id >= sizeof place) {
      r->at--;
      return malformed(r, "malformed section id");
    }
    READ(read_length(r, 1, &size));
    wsr_reader section = {r->base, r->at, r->at + size, r->error, r->off, r->used};
    r->at += size;
    if (id == 0) {
      const uint8_t *name;
      uint32_t length;
      READ(read_name(&section, &name, &length));
      continue;
    }
    if (place[id] <= last) {
      section.at--;
      return malformed(&section, "unexpected content after last section");
    }
    last = place[id];
    if (id > SECTION_FUNCTION && !m->declared) {
      /* from here on ref.func can name functions: their number is known */
      m->declared = calloc((size_t)m->n.functions + 1, 1);
      if (!m->declared) return no_memory(r);
    }
    READ(readers[id](m, &section));
    if (section.at != section.end) return malformed(&section, "section size mismatch");
    code_seen |= id == SECTION_CODE;
  }
  if (!code_seen && m->n.functions != m->n.imported_functions)
    return malformed(r, "function and code section have inconsistent lengths");
  if (m->n_data_declared != WSR_NONE && m->n_data_declared != m->n.data)
    return malformed(r, "data count and data section have inconsistent lengths");
  if (!m->declared && !(m->declared = calloc((size_t)m->n.functions + 1, 1))) return no_memory(r);
  return exports_differ(m, r);
}

wsr_module *wsr_module_new(const uint8_t *bytes, size_t size, uint64_t features, wsr_error *error) {
  *error = (wsr_error){.kind = WSR_OK, .offset = UINT64_MAX};
  if (size > UINT32_MAX - 1) {
    wsr_fail(error, WSR_LIMIT, UINT64_MAX, "a module may have at most 4 GiB");
    return NULL;
  }
  wsr_module *m = calloc(1, sizeof *m);
  if (!m) {
    wsr_fail(error, WSR_MEMORY, UINT64_MAX, "no memory left to decode the module");
    return NULL;
  }
  m->bytes = bytes;
  m->size = (uint32_t)size;
  atomic_init(&m->uses, 1);
  m->n.start = WSR_NONE;
  atomic_init(&m->invalid, WSR_NONE);
  m->n_data_declared = WSR_NONE;
  m->off = ~(features & wsr_features_built);
  wsr_reader r = {bytes, bytes, bytes + size, error, m->off, &m->n.features};
  const uint32_t own = decode(m, &r) ? m->n.functions - m->n.imported_functions : WSR_NONE;
  bool good = own != WSR_NONE;
  for (int i = 0; good && i < 2; i++)
    if (!(m->code[i] = calloc((size_t)own + 1, sizeof *m->code[i]))) good = no_memory(&r);
  if (good) return m;
  wsr_module_free(m);
  return NULL;
}

int wsr_module_validate(wsr_module *m, uint64_t bytes, wsr_error *error) {
  return wsr_validate(m, bytes, &m->n.features, error);
}

uint32_t wsr_module_invalid(const wsr_module *m, wsr_error *error) {
  const uint32_t function = atomic_load(&m->invalid);
  uint64_t used;
  if (function != WSR_NONE) wsr_validate_function(m, function, &used, error);
  return function;
}

void wsr_module_free(wsr_module *m) {
  if (!m || atomic_fetch_sub(&m->uses, 1) > 1) return;
  for (int i = 0; i < 2; i++) {
    for (uint32_t f = 0; m->code[i] && f < m->n.functions - m->n.imported_functions; f++)
      wsr_code_free(atomic_load(&m->code[i][f]));
    free(m->code[i]);
    free((void *)atomic_load(&m->native[i]));
  }
  free(m->types);
  free(m->subtypes);
  free(m->type_pool);
  free(m->table_inits);
  free(m->imports);
  free(m->exports);
  free(m->functions);
  free(m->tables);
  free(m->memories);
  free(m->globals);
  free(m->tags);
  free(m->elements);
  free(m->data);
  free(m->declared);
  free(m);
}

/* ---- constant expressions (3.3.10), with the arithmetic of extended constants ---- */

bool wsr_check_constant(const wsr_module *m, wsr_reader *r, wsr_type type, uint32_t n_globals,
                        uint8_t *declared) {
  enum { ROOM = 64 };
  wsr_type types[ROOM];
  uint32_t n = 0;
  for (;;) {
    const uint64_t start = wsr_at(r);
    uint32_t op, index = 0;
    int64_t number;
    wsr_type result = 0;
    READ(wsr_read_opcode(r, &op));
    const wsr_opcode_row *row = &wsr_opcode_table[op];
    switch (op) {
      case WSR_OP_END:
        if (n != 1 || !wsr_is_subtype(m->subtypes, types[0], type))
          return wsr_fail(r->error, WSR_INVALID, start,
                          "type mismatch: the constant expression must give one %s",
                          wsr_type_name(type));
        return true;
      case WSR_OP_I32_CONST: READ(wsr_read_signed(r, 32, &number)); break;
      case WSR_OP_I64_CONST: READ(wsr_read_signed(r, 64, &number)); break;
      case WSR_OP_F32_CONST:
      case WSR_OP_F64_CONST: {
        const uint32_t width = op == WSR_OP_F32_CONST ? 4 : 8;
        if ((uint64_t)(r->end - r->at) < width) return malformed(r, "unexpected end");
        r->at += width;
        break;
      }
      case WSR_OP_V128_CONST:
        if (r->end - r->at < 16) return malformed(r, "unexpected end");
        r->at += 16;
        break;
      case WSR_OP_REF_NULL: READ(wsr_read_heap_type(m, r, &result)); break;
      case WSR_OP_REF_FUNC:
        READ(wsr_read_u32(r, &index));
        if (index >= m->n.functions || !declared) return invalid(r, "unknown function");
        declared[index] = 1;
        result = wsr_reference_to(m->subtypes[m->functions[index].type].canonical, false);
        break;
      case WSR_OP_GLOBAL_GET:
        READ(wsr_read_u32(r, &index));
        if (index >= n_globals)
          return wsr_fail(r->error, WSR_INVALID, start, "unknown global %u", index);
        if (m->globals[index].type.mutability)
          return wsr_fail(r->error, WSR_INVALID, start, "constant expression required");
        result = m->globals[index].type.type;
        break;
      case WSR_OP_I32_ADD:
      case WSR_OP_I32_SUB:
      case WSR_OP_I32_MUL:
      case WSR_OP_I64_ADD:
      case WSR_OP_I64_SUB:
      case WSR_OP_I64_MUL:
        READ(wsr_use(r, start, WSR_FEATURE_EXTENDED_CONSTANTS));
        if (n < 2 || types[n - 1] != row->params[0] || types[n - 2] != row->params[0])
          return wsr_fail(r->error, WSR_INVALID, start, "type mismatch in a constant expression");
        n -= 2;
        break;
      default: return wsr_fail(r->error, WSR_INVALID, start, "constant expression required");
    }
    if (n == ROOM)
      return wsr_fail(r->error, WSR_LIMIT, start,
                      "a constant expression needs more than %d operands", ROOM);
    types[n++] = result ? result : row->result;
  }
}

/* ---- what Python reads ---- */

void wsr_module_counts(const wsr_module *m, wsr_counts *counts) { *counts = m->n; }

void wsr_module_function_type(const wsr_module *m, uint32_t function, wsr_function_type *out) {
  *out = wsr_function_of(wsr_type_of(m, function));
}

void wsr_module_import(const wsr_module *m, uint32_t index, wsr_extern *out) {
  *out = m->imports[index];
}

void wsr_module_export(const wsr_module *m, uint32_t index, wsr_extern *out) {
  *out = m->exports[index];
}

void wsr_module_table(const wsr_module *m, uint32_t index, wsr_bounds *out) {
  *out = m->tables[index];
}

void wsr_module_memory(const wsr_module *m, uint32_t index, wsr_bounds *out) {
  *out = m->memories[index];
}

void wsr_module_global(const wsr_module *m, uint32_t index, wsr_global_type *out) {
  *out = m->globals[index].type;
}

void wsr_module_tag(const wsr_module *m, uint32_t index, wsr_function_type *out) {
  *out = wsr_function_of(&m->types[m->tags[index]]);
}

void wsr_module_body(const wsr_module *m, uint32_t function, uint32_t *begin, uint32_t *end) {
  *begin = m->functions[function].body;
  *end = m->functions[function].end;
}
