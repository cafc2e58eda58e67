/* A program that goes on: the core, a module, and the state in which the program was saved, as one
 * WASI command. Any engine that runs WASI preview 1 resumes it.
 *
 * The state is behind our own data (compose.py puts it there): a head of 16 bytes, then blocks. A
 * block is its plain length, its stored length and its CRC-32, each a u32, and deflated bytes. The
 * first is the plain state without pages; the others are pages, in the order of its runs.
 *
 * With WASMSR_SNAPSHOT_AFTER=N in the outer engine's environment, the program stops after N more
 * instructions, and its state is written to a file: WASMSR_SNAPSHOT_TO, a path that begins with the
 * name of a folder that was given (default: `state.wsp` in the first one). wasmsr reads it as a
 * snapshot. WASMSR_SNAPSHOT_WHEN=PATH stops when that file is there; so does a call of
 * the export `wasmsr_snapshot`. */
#include <stdlib.h>
#include <string.h>

#include "calls.h"
#include "program.h"
#include "wasi_calls.h"

enum { EXIT_HOST = 1, EXIT_USAGE = 2, EXIT_STOPPED = 120, EXIT_FUEL = 121, EXIT_SNAPSHOT = 123 };
enum { FIRST_FOLDER = 3 };
enum { SLICE = 20 * 1000 * 1000 }; /* instructions between two looks for a file */
enum { BLOCK_HEAD = 12 };

/* Where the blocks are, and how many bytes they have; written into the module with them. */
__attribute__((used, visibility("default"), export_name("wasmsr_state"))) const volatile uint32_t *
wasmsr_state(void);
static const volatile uint32_t state_place[4] = {0x5253574Du, 0x0A0D1A89u, 0, 0};

const volatile uint32_t *wasmsr_state(void) { return state_place; }

static volatile bool wanted;

/* Ask for a snapshot: the program stops, and writes it. Only where a host function calls back. */
__attribute__((used, visibility("default"), export_name("wasmsr_snapshot"))) void wasmsr_snapshot(
    void) {
  wanted = true;
}

static int32_t at(const void *pointer) { return (int32_t)(uintptr_t)pointer; }

/* ---- sentences ---- */

static void write_all(uint32_t fd, const uint8_t *data, size_t size, bool *failed) {
  while (size && !*failed) {
    const uint32_t vector[2] = {(uint32_t)at(data), size > 1 << 30 ? 1u << 30 : (uint32_t)size};
    uint32_t done = 0;
    *failed = outer_fd_write((int32_t)fd, at(vector), 1, at(&done)) || !done;
    data += done;
    size -= done;
  }
}

void say_about(const char *sentence, span name, const char *rest) {
  buffer text = {0};
  bool failed = false;
  put_bytes(&text, "wasmsr: ", 8);
  put_bytes(&text, sentence, strlen(sentence));
  put_bytes(&text, name.data, name.size);
  put_bytes(&text, rest, strlen(rest));
  put_bytes(&text, "\n", 1);
  write_all(2, text.data, text.size, &failed);
  free(text.data);
}

void say(const char *sentence) { say_about(sentence, (span){NULL, 0}, ""); }

_Noreturn void fail_about(int code, const char *sentence, span name, const char *rest) {
  say_about(sentence, name, rest);
  outer_proc_exit(code);
}

_Noreturn void fail(int code, const char *sentence) {
  say(sentence);
  outer_proc_exit(code);
}

static void put_decimal(buffer *to, uint64_t value) {
  char digits[20], *digit = digits + sizeof digits;
  do *--digit = (char)('0' + value % 10);
  while (value /= 10);
  put_bytes(to, digit, (size_t)(digits + sizeof digits - digit));
}

static void put_hexadecimal(buffer *to, uint64_t value, int digits) {
  while (digits--) put_bytes(to, &"0123456789abcdef"[value >> digits * 4 & 15], 1);
}

/* ---- what is in this module ---- */

/* CRC-32 as in zlib and PNG. */
static uint32_t crc_of(const uint8_t *data, size_t size) {
  static uint32_t table[256];
  if (!table[1])
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0);
      table[i] = value;
    }
  uint32_t crc = UINT32_MAX;
  for (size_t i = 0; i < size; i++) crc = crc >> 8 ^ table[(crc ^ data[i]) & 0xFF];
  return ~crc;
}

/* Some C libraries take all memory from the end of our data on for the heap, and so the blocks too,
 * which lie behind it. Their first allocation is then made over all of the blocks, and kept. */
static void keep_blocks(void) {
  extern uint8_t __heap_base;
  const uintptr_t begin = (uintptr_t)&__heap_base, end = (uintptr_t)state_place[2] + state_place[3];
  static void *volatile first; /* volatile, or the compiler leaves the allocation out */
  first = malloc(end - begin);
  if ((uintptr_t)first > state_place[2]) free(first); /* it leaves them alone */
}

/* The next block, inflated to `to`, or to new memory where that is NULL. */
static span next_block(reader *from, uint8_t *to, size_t room) {
  const uint32_t plain = read_u32(from), stored = read_u32(from), crc = read_u32(from);
  const span bytes = read_bytes(from, stored);
  if (from->bad || (to && plain > room))
    fail(EXIT_SNAPSHOT, "the state in this file is damaged: it ends too early");
  uint8_t *const out = to ? to : allocate(plain, 1);
  if (!inflate_bytes(out, plain, bytes) || crc_of(out, plain) != crc)
    fail(EXIT_SNAPSHOT, "the state in this file is damaged: its bytes have changed");
  return (span){out, plain};
}

static void load(program *of, wasi_state *wasi) {
  enum { ROOM = 1 << 20 };
  const uint32_t place = state_place[2], size = state_place[3];
  if (!size)
    fail(EXIT_USAGE,
         "this module has no program in it: wasmsr snapshot export --runnable makes one");
  keep_blocks();
  reader from = {(const uint8_t *)(uintptr_t)place, (const uint8_t *)(uintptr_t)place + size,
                 false};
  plain_state state;
  const char *const wrong = plain_open(&state, next_block(&from, NULL, 0));
  if (wrong)
    fail_about(EXIT_SNAPSHOT,
               "the state in this file is damaged: ", (span){(const uint8_t *)wrong, strlen(wrong)},
               "");
  program_make(of, &state);
  page_places places = program_places(of);
  uint8_t *const pages = allocate(ROOM, 1);
  while (from.at < from.end) {
    const span block = next_block(&from, pages, ROOM);
    program_put_pages(of, &places, block.data, (uint32_t)(block.size / WSR_PAGE));
  }
  free(pages);
  if (places.left || places.runs.at != places.runs.end)
    fail(EXIT_SNAPSHOT, "the state in this file is damaged: pages are missing");
  program_push_frames(of);
  wasi_open(wasi, &state);
}

/* ---- saving ---- */

/* What the outer engine was told, in its environment. */
static span told(const char *name) {
  static uint8_t *text;
  static uint32_t *pointers, n, size;
  if (!pointers) {
    if (outer_environ_sizes_get(at(&n), at(&size))) n = 0;
    pointers = allocate(n + 1, sizeof *pointers);
    text = allocate((size_t)size + 1, 1);
    if (n && outer_environ_get(at(pointers), at(text))) n = 0;
  }
  const size_t length = strlen(name);
  for (uint32_t i = 0; i < n; i++) {
    const char *const one = (const char *)(uintptr_t)pointers[i];
    if (!strncmp(one, name, length) && one[length] == '=')
      return (span){(const uint8_t *)one + length + 1, strlen(one + length + 1)};
  }
  return (span){NULL, 0};
}

/* The folder that was given in which a path is, and the rest of the path. */
static uint32_t folder_of(span *path) {
  uint32_t found = UINT32_MAX;
  size_t longest = 0;
  span rest = *path;
  for (uint32_t fd = FIRST_FOLDER;; fd++) {
    uint32_t prestat[2];
    if (outer_fd_prestat_get((int32_t)fd, at(prestat))) break;
    uint8_t *const name = allocate(prestat[1] + 1, 1);
    outer_fd_prestat_dir_name((int32_t)fd, at(name), (int32_t)prestat[1]);
    size_t size = strlen((const char *)name);
    while (size && name[size - 1] == '/') size--;
    if (size == 1 && name[0] == '.') size = 0;
    const bool begins = path->size >= size && !memcmp(path->data, name, size) &&
                        (!size || path->size == size || path->data[size] == '/');
    if (begins && (found == UINT32_MAX || size > longest)) {
      found = fd;
      longest = size;
      rest = (span){path->data + size, path->size - size};
      while (rest.size && rest.data[0] == '/') rest = (span){rest.data + 1, rest.size - 1};
    }
    free(name);
  }
  *path = rest;
  return found;
}

static uint32_t saving_to;
static bool saving_failed;

static void take_pages(const uint8_t *page, size_t size) {
  write_all(saving_to, page, size, &saving_failed);
}

/* Write the state, complete or not at all. False if it cannot be written: the program goes on. */
static bool save(program *of, wasi_state *wasi, uint64_t fuel) {
  static const span standard = {(const uint8_t *)"state.wsp", 9};
  span path = told("WASMSR_SNAPSHOT_TO");
  uint32_t folder = UINT32_MAX, prestat[2];
  if (path.size) {
    folder = folder_of(&path);
  } else if (!outer_fd_prestat_get(FIRST_FOLDER, at(prestat))) {
    folder = FIRST_FOLDER;
    path = standard;
  }
  if (folder == UINT32_MAX || !path.size) {
    say("no snapshot: WASMSR_SNAPSHOT_TO is in no folder that was given (wasmtime run --dir "
        "HOST::NAME)");
    return false;
  }
  buffer wasi_part = {0}, state = {0};
  uint32_t fd = 0;
  const char *const refused = wasi_capture(wasi, &wasi_part, &fd);
  if (refused) {
    buffer text = {0};
    put_decimal(&text, fd);
    put_bytes(&text, " ", 1);
    put_bytes(&text, refused, strlen(refused));
    say_about("no snapshot: descriptor ", (span){text.data, text.size}, "");
    free(text.data);
    free(wasi_part.data);
    return false;
  }
  program_capture(of, &state, &wasi_part, fuel);
  buffer temporary = {0};
  put_bytes(&temporary, path.data, path.size);
  put_bytes(&temporary, ".part", 5);
  const mount place = mount_of(folder);
  saving_failed = open_outer(&place, folder, false, (span){temporary.data, temporary.size}, 1 | 8,
                             ACCESS_WRITE, 0, &saving_to) != 0;
  if (saving_failed) {
    say_about("no snapshot: cannot write ", path, "");
  } else {
    write_all(saving_to, state.data, state.size, &saving_failed);
    program_each_page(of, take_pages);
    saving_failed = saving_failed || outer_fd_sync((int32_t)saving_to);
    saving_failed = outer_fd_close((int32_t)saving_to) || saving_failed;
    saving_failed = saving_failed ||
                    outer_path_rename((int32_t)folder, at(temporary.data), (int32_t)temporary.size,
                                      (int32_t)folder, at(path.data), (int32_t)path.size);
    if (!saving_failed) {
      outer_fd_sync((int32_t)folder); /* its new name; not every engine lets us */
      say_about("the program was saved in ", path, " and has stopped");
      return true;
    }
    outer_path_unlink_file((int32_t)folder, at(temporary.data), (int32_t)temporary.size);
    say_about("no snapshot: the disk does not take all of ", path, "");
  }
  free(temporary.data);
  free(wasi_part.data);
  free(state.data);
  return false;
}

static bool is_there(void) {
  span path = told("WASMSR_SNAPSHOT_WHEN");
  if (!path.size) return false;
  const uint32_t folder = folder_of(&path);
  uint8_t stat[64];
  return folder != UINT32_MAX &&
         !outer_path_filestat_get((int32_t)folder, 1, at(path.data), (int32_t)path.size, at(stat));
}

/* Whether the file is new. One that stays where the state could not be saved is not a new wish. */
static bool appeared(void) {
  static bool before;
  const bool now = is_there(), fresh = now && !before;
  before = now;
  return fresh;
}

static uint64_t number_told(const char *name) {
  const span text = told(name);
  uint64_t value = 0;
  for (size_t i = 0; i < text.size; i++) {
    const uint32_t digit = (uint32_t)text.data[i] - '0';
    if (digit > 9 || value > (UINT64_MAX - digit) / 10)
      fail_about(EXIT_USAGE, "WASMSR_SNAPSHOT_AFTER is no number of instructions: ", text, "");
    value = value * 10 + digit;
  }
  return text.size ? value : UINT64_MAX;
}

/* ---- running ---- */

static const char *trap_sentence(uint32_t trap) {
  static const char *const sentences[] = {TRAP_SENTENCES};
  return trap < sizeof sentences / sizeof *sentences ? sentences[trap] : "unknown trap";
}

/* As an engine does: its own trap, after the sentence. */
static _Noreturn void end_with_trap(uint32_t trap) {
  const char *const sentence = trap_sentence(trap);
  say_about("trap: ", (span){(const uint8_t *)sentence, strlen(sentence)}, "");
  __builtin_trap();
}

static span memory_of(const program *of, uint32_t instance) {
  wsr_memory_view view;
  wsr_counts counts;
  wsr_module_counts(of->modules[of->modules_of[instance]], &counts);
  if (!counts.memories) return (span){NULL, 0};
  wsr_memory(of->store, wsr_instance_address(of->store, instance, WSR_MEMORY_KIND, 0), &view);
  return (span){view.data, (size_t)view.size};
}

/* The results of an export, a line each, as `wasmsr run` prints integers; of other types the bits.
 */
static void print_results(const program *of, const uint64_t *slots) {
  if (!of->result_of) return;
  wsr_function_view view;
  wsr_function(of->store, of->result_of - 1, &view);
  buffer text = {0};
  for (uint32_t i = 0, slot = 0; i < view.type.n_results; i++) {
    const uint32_t code = view.type.results[i] & 0xFF;
    uint64_t bits = slots[slot++];
    if (code == 0x7F) bits = (uint64_t)(int64_t)(int32_t)bits;
    if (code == 0x7F || code == 0x7E) {
      if (bits >> 63) put_bytes(&text, "-", 1);
      put_decimal(&text, bits >> 63 ? ~bits + 1 : bits);
    } else {
      put_bytes(&text, "0x", 2);
      if (code == 0x7B) put_hexadecimal(&text, slots[slot++], 16);
      put_hexadecimal(&text, bits, code == 0x7D ? 8 : 16);
    }
    put_bytes(&text, "\n", 1);
  }
  bool failed = false;
  write_all(1, text.data, text.size, &failed);
  free(text.data);
}

int main(void) {
  static program inner;
  static wasi_state wasi;
  load(&inner, &wasi);
  uint64_t after = number_told("WASMSR_SNAPSHOT_AFTER");
  const bool watching = told("WASMSR_SNAPSHOT_WHEN").size != 0;
  uint64_t left = inner.fuel;
  const bool counted =
      inner.before != UNCOUNTED || left != NO_FUEL || after != UINT64_MAX || watching;
  bool begun = wsr_frame_count(inner.store) != 0;
  uint32_t trap = 0;
  for (;;) {
    if (!begun) {
      if (after == 0 || wanted) {
        if (save(&inner, &wasi, left)) return EXIT_STOPPED;
        after = UINT64_MAX;
        wanted = false;
      }
      if (!program_begin_next(&inner, &trap)) return 0;
      if (trap) end_with_trap(trap);
      begun = true;
    }
    uint64_t slice = SLICE;
    if (after < slice) slice = after;
    if (left < slice) slice = left;
    const uint64_t given = slice;
    wsr_exit out;
    uint32_t outcome =
        given || !counted ? wsr_run(inner.store, counted ? &slice : NULL, &out) : WSR_PAUSED;
    while (outcome == WSR_HOST_CALL) {
      const uint32_t call =
          out.host_function < inner.n_functions ? inner.calls[out.host_function] : UINT32_MAX;
      if (call >= CALL_COUNT)
        fail(EXIT_HOST, "the program calls a host function that is not of WASI");
      out.slots[0] = perform_call(&wasi, call, out.slots, memory_of(&inner, out.host_instance));
      if (wanted) wsr_pause(inner.store);
      outcome = wsr_host_return_run(inner.store, counted ? &slice : NULL, &out);
    }
    const uint64_t used = given - slice;
    if (counted && after != UINT64_MAX) after -= used;
    if (counted && left != NO_FUEL) left -= used;
    switch (outcome) {
      case WSR_FINISHED:
        if (!wsr_end_pushed_call(inner.store)) {
          print_results(&inner, out.slots);
          wsr_drop_frames(inner.store);
          begun = false;
        }
        break;
      case WSR_TRAPPED: end_with_trap(out.trap);
      case WSR_UNCAUGHT:
        say("the program has thrown an exception that nobody caught");
        __builtin_trap();
      default:
        wsr_clear_pause(inner.store);
        if (after == 0 || wanted || (watching && appeared())) {
          if (save(&inner, &wasi, left)) return EXIT_STOPPED;
          after = UINT64_MAX;
          wanted = false;
        }
        if (left == 0) fail(EXIT_FUEL, "the program has used up its instructions");
    }
  }
}
