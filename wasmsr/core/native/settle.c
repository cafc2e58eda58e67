/* The frames of native code: written from return addresses, when somebody needs them.
 *
 * A call in native code writes nothing but its return address. The stack for native code thus has
 * one word for each frame above `thread->frame`. Behind each return address is an instruction that
 * leads to the call's site: the function and the cell. From the sites follow all that frames and
 * returns contain. Before a C handler runs, all frames are settled and the stack is empty; native
 * code of these frames then goes on as if C handlers had called. */
#include "core/native/native.h"

#if WSR_NATIVE

typedef struct {
  const wsr_fast *fast;
  const uint64_t *pc; /* the cell of the call */
  bool indirect;
} call_site;

static call_site site_of(uint64_t return_address) {
  const uint8_t *at = (const uint8_t *)(uintptr_t)return_address;
  int32_t distance;
  wsr_site site;
  call_site found;
  memcpy(&distance, at + 1, sizeof distance); /* test eax, distance */
  at += SITE_MARK + distance;
  memcpy(&site, at, sizeof site);
  memcpy(&found.fast, at - site.number * sizeof site - sizeof found.fast, sizeof found.fast);
  found.pc = found.fast->words + site.word;
  found.indirect = site.indirect;
  return found;
}

/* A store can run native code that another store of the same module has made: then it learns of
 * the function only now. */
static uint32_t address_of(const wsr_thread *thread, const wsr_fast *fast) {
  const uint32_t address = fast->code->function + thread->instance->own;
  wsr_function_instance *const function = &thread->functions[address];
  if (!wsr_code_of(function)) WSR_PUBLISH(&function->code, fast->code);
  if (!WSR_PUBLISHED(&thread->codes[address])) WSR_PUBLISH(&thread->codes[address], fast);
  return address;
}

static void set_limit(wsr_thread *thread) {
  const uint64_t left = (uint64_t)(thread->last_frame - thread->frame);
  thread->native_limit = thread->native_top - sizeof(uint64_t) * left;
}

void wsr_native_settle(wsr_thread *thread, const wsr_fast *fast, const uint64_t *top) {
  const uint64_t *at = (const uint64_t *)(uintptr_t)thread->native_top;
  if (at == top) return;
  wsr_frame *frame = thread->frame;
  uint64_t *fp = thread->stack + frame->slot;
  call_site site = site_of(*--at);
  for (;;) {
    const uint64_t *const pc = site.pc;
    const uint32_t up = (uint32_t)pc[1] & 0xFFFF;
    frame->cell = (uint32_t)(pc[2] >> 32) + 1;
    frame[1].slot = frame->slot + up;
    frame++;
    thread->returns[frame - thread->frames] =
        (wsr_return){.pc = pc + (pc[1] >> 48), .fp = fp, .instance = thread->instance};
    fp += up;
    if (at == top) break;
    site = site_of(*--at);
    frame->function = address_of(thread, site.fast);
  }
  frame->function = address_of(thread, fast);
  thread->frame = frame;
  set_limit(thread);
}

uint64_t wsr_native_redo(wsr_thread *thread, const uint64_t *top) {
  const call_site site = site_of(*top);
  wsr_native_settle(thread, site.fast, top + 1);
  thread->native_pc = site.pc;
  thread->native_fp = thread->stack + thread->frame->slot;
  return (uint64_t)(uintptr_t)
      wsr_fast_special[site.indirect ? WSR_FAST_call_indirect : WSR_FAST_call_own];
}
#endif
