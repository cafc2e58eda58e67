/* The part of fast/translate_fast.c that folds vector instructions, included there: operands of 128
 * bits lie in two slots, in a local's two, in the vector accumulator, or are a constant of the
 * module's bytes. The order of an instruction's handlers is that of fast/handlers_simd.c. */

static void load_vector(translator *f, wsr_handler *const *handlers, const wsr_cell *c) {
  enum { SUMS = 6 };
  if (load_sum(f, handlers + SUMS, KIND_V, c)) return;
  const source a = find(f, c->s, KIND_I, true);
  const uint32_t offset = (uint32_t)c->u.imm;
  pop_operands(f, c->s);
  produce(f, c->s, KIND_V, handlers + a.class * 2, 1, fields_and_number(a.slot, 0, offset));
  if (a.class == WSR_C) word(f, (uint32_t)a.value + c->u.imm);
}

static void store_vector(translator *f, wsr_handler *const *handlers, const wsr_cell *c) {
  const source b = find(f, c->s + 1, KIND_V, false), a = find(f, c->s, KIND_I, true);
  pop_operands(f, c->s);
  begin(f, handlers[a.class * 2 + b.class], fields_and_number(a.slot, b.slot, (uint32_t)c->u.imm));
  if (a.class == WSR_C) word(f, (uint32_t)a.value + c->u.imm);
}

static void access_lane(translator *f, wsr_handler *const *handlers, const wsr_cell *c) {
  const wsr_opcode_row *row = &wsr_opcode_table[c->op];
  const uint32_t offset = (uint32_t)wsr_offset_of(c), lane = wsr_lane_of(c);
  if (row->result) {
    const source b = find(f, c->s + 1, KIND_V, false), a = find(f, c->s, KIND_I, false);
    pop_operands(f, c->s);
    produce(f, c->s, KIND_V, handlers + (a.class * 2 + b.class) * 2, 1,
            fields_and_number(a.slot, 0, offset));
    word(f, pair(b.slot, lane));
  } else {
    const uint32_t slot = any_slot(f, c->s + 1);
    const source a = find(f, c->s, KIND_I, false);
    pop_operands(f, c->s);
    begin(f, handlers[a.class], fields_and_number(a.slot, slot, offset));
    word(f, lane * row->width);
  }
}

static void lane_of_vector(translator *f, wsr_handler *const *handlers, const wsr_cell *c) {
  const wsr_opcode_row *row = &wsr_opcode_table[c->op];
  const uint32_t lane = (uint32_t)c->u.imm;
  if (row->n_params == 1) {
    const uint32_t slot = any_slot(f, c->s);
    pop_operands(f, c->s);
    produce(f, c->s, kind_of(row->result), handlers, 3, fields(slot, lane * row->width, 0, 0));
    return;
  }
  const source a = find(f, c->s, KIND_V, false);
  const source b = find(f, c->s + 2, kind_of(row->params[1]), false);
  pop_operands(f, c->s);
  produce(f, c->s, KIND_V, handlers + (a.class * 2 + b.class) * 2, 3,
          fields(a.slot, b.slot, lane, 0));
}

static void shuffle(translator *f, wsr_handler *const *handlers, const wsr_cell *c) {
  source a = find(f, c->s, KIND_V, false), b = find(f, c->s + 2, KIND_V, false);
  separate(&a, &b);
  pop_operands(f, c->s);
  produce(f, c->s, KIND_V, handlers + (a.class * 2 + b.class) * 2, 3, fields(a.slot, b.slot, 0, 0));
  word_16(f, c->u.imm);
}

static void unary_vector(translator *f, wsr_handler *const *handlers, uint32_t s, int from,
                         int to) {
  const source a = find(f, s, from, false);
  pop_operands(f, s);
  produce(f, s, to, handlers + a.class * 2, 3, fields(a.slot, 0, 0, 0));
}

/* Of two vectors, or of a vector and a number of bits. */
static void binary_vector(translator *f, wsr_handler *const *handlers, uint32_t s, int other) {
  source a = find(f, s, KIND_V, false), b = find(f, s + 2, other, true);
  if (other == KIND_V) separate(&a, &b);
  pop_operands(f, s);
  produce(f, s, KIND_V, handlers + (a.class * 3 + b.class) * 2, 3, fields(a.slot, b.slot, 0, 0));
  if (b.class != WSR_C) return;
  if (other == KIND_V)
    word_16(f, b.value);
  else
    word(f, b.value);
}

/* One operand at most comes from the accumulator: that which is nowhere else, or the first. */
static void ternary_vector(translator *f, wsr_handler *const *handlers, uint32_t s) {
  source x[3];
  uint32_t from_acc = 3;
  for (uint32_t i = 0; i < 3; i++) x[i] = find(f, s + 2 * i, KIND_V, false);
  for (uint32_t i = 3; i-- > 0;)
    if (x[i].class == WSR_A) from_acc = i;
  for (uint32_t i = 0; i < 3; i++)
    if (x[i].class == WSR_A && x[i].slot == WSR_NONE) from_acc = i;
  pop_operands(f, s);
  produce(f, s, KIND_V, handlers + (from_acc == 3 ? 0 : from_acc + 1) * 2, 3,
          fields(x[0].slot, x[1].slot, x[2].slot, 0));
}

static void vector(translator *f, const wsr_cell *c) {
  const wsr_opcode_row *row = &wsr_opcode_table[c->op];
  wsr_handler *const *const handlers = wsr_vector_handlers(c->op);
  switch (row->immediate) {
    case WSR_IMM_V128: set_operand(f, c->s, IN_CONSTANT, KIND_V, c->u.imm); return;
    case WSR_IMM_LANES: shuffle(f, handlers, c); return;
    case WSR_IMM_LANE: lane_of_vector(f, handlers, c); return;
    case WSR_IMM_MEMARG:
    case WSR_IMM_MEMARG_LANE:
      if (c->n)
        as_precise(f, WSR_FAST_vector_memory, c);
      else if (row->immediate == WSR_IMM_MEMARG_LANE)
        access_lane(f, handlers, c);
      else if (row->result)
        load_vector(f, handlers, c);
      else
        store_vector(f, handlers, c);
      return;
    default: break;
  }
  switch (row->n_params) {
    case 0: unary_vector(f, handlers, c->s, KIND_V, KIND_V); return; /* NaNs made canonical */
    case 1: unary_vector(f, handlers, c->s, kind_of(row->params[0]), kind_of(row->result)); return;
    case 2: binary_vector(f, handlers, c->s, kind_of(row->params[1])); return;
    default: ternary_vector(f, handlers, c->s); return;
  }
}

static void select_v128(translator *f, uint32_t s) {
  const uint32_t a = any_slot(f, s), b = any_slot(f, s + 2), test = any_slot(f, s + 4);
  pop_operands(f, s);
  produce(f, s, KIND_V, &wsr_fast_special[WSR_FAST_select_v_a], 3, fields(a, b, test, 0));
}

static void global_v128(translator *f, const wsr_cell *c, bool get) {
  const uint64_t second = fields_and_number(0, 0, c->u.p.a);
  if (get) {
    produce(f, c->s, KIND_V, &wsr_fast_special[WSR_FAST_get_v_a], 1, second);
    return;
  }
  const source a = find(f, c->s, KIND_V, false);
  pop_operands(f, c->s);
  special(f, a.class == WSR_A ? WSR_FAST_set_v : WSR_FAST_set_v_s,
          fields_and_number(a.slot, 0, c->u.p.a));
}
