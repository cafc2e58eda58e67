/* Native code that all functions share: into native code, out of it, to C handlers and back.
 *
 * Stack, from where it ends: a pair for each frame that native code has entered and that has not
 * returned (where the frame's native code returns to, and the frame's address). While C handlers
 * run, one pair more: where they return to, and the thread. */
#include <stddef.h>

#include "core/native/native.h"

#if WSR_NATIVE
#include "core/native/x64.h"

#define THREAD_IN(reg, member) at(reg, (int32_t)offsetof(wsr_thread, member))

static const int8_t saved[] = {RBX, RBP, R12, R13, R14, R15};
enum { SAVED = sizeof saved };

/* uint32_t enter(thread, pc, fp, memory, size, handler), as C calls it. */
static void write_enter(wsr_buffer *b) {
  for (int k = 0; k < SAVED; k++) push(b, saved[k]);
  mov_from(b, WIDE, THREAD_IN(RDI, host_stack), RSP);
  mov_to(b, WIDE, RSP, THREAD_IN(RDI, native_top));
  load_constant(b, RAX, 0);
  push(b, RAX); /* no frame has this address */
  push(b, RAX);
  mov_to(b, WIDE, RAX, in_register(R9));
  mov_to(b, WIDE, R10, in_register(R8));
  mov_to(b, WIDE, R8, in_register(RDI));
  mov_to(b, WIDE, RDI, in_register(RSI));
  mov_to(b, WIDE, RSI, in_register(RDX));
  mov_to(b, WIDE, RDX, in_register(RCX));
  mov_to(b, WIDE, RCX, in_register(R10));
  load_constant(b, R9, 0);
  for (int k = 0; k < 3; k++) ins(b, 0, MAP_0F, 0x57, 0, k, in_register(k));
}

/* rax: a handler, with its arguments in place. */
static uint32_t write_to_handler(wsr_buffer *b) {
  push(b, R8);
  const uint32_t leave = load_address(b, R10);
  push(b, R10);
  jump_register(b, RAX);
  return leave;
}

/* A handler has returned an outcome: give up this stack. */
static void write_leave(wsr_buffer *b) {
  pop(b, RCX);
  mov_to(b, WIDE, RSP, THREAD_IN(RCX, host_stack));
  for (int k = SAVED; k-- > 0;) pop(b, saved[k]);
  ret(b);
}

static void jump_back(wsr_buffer *b, uint32_t to) {
  put8(b, 0xE9);
  put32(b, 0);
  set_distance(b, b->n, to);
}

/* Native code of a frame has returned, and its caller's is not known: go on as the handlers do. */
static void write_generic_return(wsr_buffer *b, uint32_t to_handler) {
  pop(b, RAX);
  lea(b, WIDE, R11, at(RAX, -(int32_t)sizeof(wsr_frame)));
  mov_from(b, WIDE, THREAD_IN(R8, frame), R11);
  mov_to(b, WIDE, R10, THREAD_IN(R8, returns_from));
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
  jump_back(b, to_handler);
  land(b, out);
  mov_to(b, WIDE, RDI, in_register(R8));
  load_constant(b, RAX, (uint64_t)(uintptr_t)wsr_return_out);
  jump_back(b, to_handler);
}

/* uint64_t shadow_stack(void): the CPU's stack of return addresses, or 0 where there is none. */
static void write_shadow_stack(wsr_buffer *b) {
  load_constant(b, RAX, 0);
  ins(b, 0xF3, MAP_0F, 0x1E, WIDE, 1, in_register(RAX)); /* rdsspq; older CPUs do nothing */
  ret(b);
}

bool wsr_routines_write(wsr_buffer *b, wsr_routines *to) {
  to->enter = b->n;
  write_enter(b);
  to->to_handler = b->n;
  const uint32_t leave = write_to_handler(b);
  set_distance(b, leave, b->n);
  write_leave(b);
  to->generic_return = b->n;
  write_generic_return(b, to->to_handler);
  to->shadow_stack = b->n;
  write_shadow_stack(b);
  return !b->failed;
}
#endif
