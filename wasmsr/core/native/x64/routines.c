/* Native code that all functions share: into native code, out of it, to C handlers and back.
 *
 * C handlers run on the stack of C, where native code was entered; there they find where they
 * return to, which leaves. Native code runs on a stack of its own: see native/settle.c. */
#include <stddef.h>

#include "core/native/native.h"

#if WSR_NATIVE
#include "core/native/x64/encode.h"

#define THREAD_IN(reg, member) at(reg, (int32_t)offsetof(wsr_thread, member))

static const int8_t saved[] = {RBX, RBP, R12, R13, R14, R15};
enum { SAVED = sizeof saved };

/* Native code calls only while a frame is left: a word of the native stack for each. rax, r11 */
static void write_limit(wsr_buffer *b) {
  mov_to(b, WIDE, RAX, THREAD_IN(R8, last_frame));
  alu(b, ALU_SUB, WIDE, RAX, THREAD_IN(R8, frame));
  _Static_assert(sizeof(wsr_frame) == 12, "n x 12 is n x 8 times three halves");
  load_constant(b, R11, UINT64_C(0xAAAAAAAAAAAAAAAB)); /* x 3 = 1, modulo 2^64 */
  ins(b, 0, MAP_0F, 0xAF, WIDE, RAX, in_register(R11));
  alu(b, ALU_ADD, WIDE, RAX, in_register(RAX));
  mov_to(b, WIDE, R11, THREAD_IN(R8, native_top));
  alu(b, ALU_SUB, WIDE, R11, in_register(RAX));
  mov_from(b, WIDE, THREAD_IN(R8, native_limit), R11);
}

/* uint32_t enter(thread, pc, fp, memory, size, handler), as C calls it. */
static uint32_t write_enter(wsr_buffer *b) {
  for (int k = 0; k < SAVED; k++) push(b, saved[k]);
  const uint32_t leave = load_address(b, R10);
  push(b, R10); /* twice: C handlers find the stack as a function does */
  push(b, R10);
  mov_from(b, WIDE, THREAD_IN(RDI, host_stack), RSP);
  push(b, R9);
  mov_to(b, WIDE, R10, in_register(R8));
  mov_to(b, WIDE, R8, in_register(RDI));
  mov_to(b, WIDE, RDI, in_register(RSI));
  mov_to(b, WIDE, RSI, in_register(RDX));
  mov_to(b, WIDE, RDX, in_register(RCX));
  mov_to(b, WIDE, RCX, in_register(R10));
  write_limit(b);
  load_constant(b, R9, 0);
  for (int k = 0; k < 3; k++) ins(b, 0, MAP_0F, 0x57, 0, k, in_register(k));
  ret(b); /* to the handler */
  return leave;
}

/* A handler has returned an outcome: give up both stacks. */
static void write_leave(wsr_buffer *b) {
  alu_constant(b, ALU_ADD, WIDE, in_register(RSP), 8);
  for (int k = SAVED; k-- > 0;) pop(b, saved[k]);
  ret(b);
}

static void call_c(wsr_buffer *b, uint64_t function) {
  load_constant(b, RAX, function);
  call_register(b, RAX);
}

static void to_cell(wsr_buffer *b) {
  mov_to(b, WIDE, R11, at(R10, (int32_t)offsetof(wsr_fast, words)));
  lea(b, WIDE, RDI, at_index(R11, RDI, 3, 0));
}

/* r10: the function; rdi: the number of the word; rax: the handler, from HANDLER_BASE on. The rest
 * are arguments of the handler. Return where it is the handler in the word. */
static uint32_t write_to_handler(wsr_buffer *b) {
  static const int8_t kept[] = {RAX, RDI, RSI, RDX, RCX, R8, R9};
  enum { KEPT = sizeof kept, XMM = 3 };
  to_cell(b);
  ins(b, 0, MAP_1, 0x63, WIDE, RAX, in_register(RAX));
  load_constant(b, R11, HANDLER_BASE);
  alu(b, ALU_ADD, WIDE, RAX, in_register(R11));
  const uint32_t found = jump_always_short(b), own = b->n;
  to_cell(b);
  mov_to(b, WIDE, RAX, at(RDI, 0));
  land(b, found);
  mov_to(b, WIDE, R11, in_register(RSP));
  mov_to(b, WIDE, RSP, THREAD_IN(R8, host_stack));
  alu(b, ALU_CMP, WIDE, R11, THREAD_IN(R8, native_top));
  const uint32_t unsettled = jump_short(b, CC_NE);
  jump_register(b, RAX);
  land(b, unsettled);
  for (int k = 0; k < KEPT; k++) push(b, kept[k]);
  alu_constant(b, ALU_SUB, WIDE, in_register(RSP), XMM * 16);
  for (int k = 0; k < XMM; k++) ins(b, 0, MAP_0F, 0x11, 0, k, at(RSP, k * 16));
  mov_to(b, WIDE, RDI, in_register(R8));
  mov_to(b, WIDE, RSI, in_register(R10));
  mov_to(b, WIDE, RDX, in_register(R11));
  call_c(b, (uint64_t)(uintptr_t)wsr_native_settle);
  for (int k = 0; k < XMM; k++) ins(b, 0, MAP_0F, 0x10, 0, k, at(RSP, k * 16));
  alu_constant(b, ALU_ADD, WIDE, in_register(RSP), XMM * 16);
  for (int k = KEPT; k-- > 0;) pop(b, kept[k]);
  jump_register(b, RAX);
  return own;
}

/* A function that native code has called cannot run now, and has done nothing yet. */
static void write_redo(wsr_buffer *b) {
  static const int8_t kept[] = {RDX, RCX, R8};
  enum { KEPT = sizeof kept };
  mov_to(b, WIDE, R11, in_register(RSP));
  mov_to(b, WIDE, RSP, THREAD_IN(R8, host_stack));
  for (int k = 0; k < KEPT; k++) push(b, kept[k]);
  mov_to(b, WIDE, RDI, in_register(R8));
  mov_to(b, WIDE, RSI, in_register(R11));
  call_c(b, (uint64_t)(uintptr_t)wsr_native_redo);
  for (int k = KEPT; k-- > 0;) pop(b, kept[k]);
  mov_to(b, WIDE, RDI, THREAD_IN(R8, native_pc));
  mov_to(b, WIDE, RSI, THREAD_IN(R8, native_fp));
  jump_register(b, RAX);
}

/* Native code of a settled frame has returned: go on as the handlers do. */
static void write_generic_return(wsr_buffer *b) {
  mov_to(b, WIDE, RSP, THREAD_IN(R8, host_stack));
  mov_to(b, WIDE, RAX, THREAD_IN(R8, frame));
  lea(b, WIDE, R11, at(RAX, -(int32_t)sizeof(wsr_frame)));
  mov_from(b, WIDE, THREAD_IN(R8, frame), R11);
  mov_to(b, WIDE, R10, THREAD_IN(R8, returns_from));
  _Static_assert(sizeof(wsr_return) == 2 * sizeof(wsr_frame), "the scale");
  lea(b, WIDE, R10, at_index(R10, RAX, 1, 0));
  mov_to(b, WIDE, RDI, at(R10, (int32_t)offsetof(wsr_return, pc)));
  test_self(b, WIDE, RDI);
  const uint32_t out = jump_short(b, CC_E);
  mov_to(b, WIDE, RSI, at(R10, (int32_t)offsetof(wsr_return, fp)));
  mov_to(b, WIDE, R9, at(R10, (int32_t)offsetof(wsr_return, instance)));
  mov_to(b, WIDE, RAX, at(RDI, 0));
  alu(b, ALU_CMP, WIDE, R9, THREAD_IN(R8, instance));
  const uint32_t same = jump_short(b, CC_E);
  load_constant(b, RAX, (uint64_t)(uintptr_t)wsr_change_instance);
  land(b, same);
  jump_register(b, RAX);
  land(b, out);
  mov_to(b, WIDE, RDI, in_register(R8));
  load_constant(b, RAX, (uint64_t)(uintptr_t)wsr_return_out);
  jump_register(b, RAX);
}

/* uint64_t shadow_stack(void): the CPU's stack of return addresses, or 0 where there is none. */
static void write_shadow_stack(wsr_buffer *b) {
  load_constant(b, RAX, 0);
  ins(b, 0xF3, MAP_0F, 0x1E, WIDE, 1, in_register(RAX)); /* rdsspq; older CPUs do nothing */
  ret(b);
}

bool wsr_routines_write(wsr_buffer *b, wsr_routines *to) {
  for (int metered = 1; metered >= 0; metered--) { /* one goes on in the other */
    to->generic_return[metered] = b->n;
    if (metered) mov_from(b, WIDE, THREAD_IN(R8, left), FUEL);
  }
  write_generic_return(b);
  to->to_handler = b->n;
  to->to_own_handler = write_to_handler(b);
  for (int metered = 1; metered >= 0; metered--) {
    to->redo[metered] = b->n;
    if (metered) mov_from(b, WIDE, THREAD_IN(R8, left), FUEL);
  }
  write_redo(b);
  to->set_limit = b->n;
  write_limit(b);
  ret(b);
  to->shadow_stack = b->n;
  write_shadow_stack(b);
  to->enter = b->n;
  const uint32_t leave = write_enter(b);
  set_distance(b, leave, b->n);
  write_leave(b);
  return !b->failed;
}
#endif
