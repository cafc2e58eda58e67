/* Programs that run programs: a register machine, a stack machine with big switches, a regular
 * expression, a state machine over bytes, a marker of reachable objects. */
#include "../kernels/kernel.h"

typedef struct {
  uint8_t op, a, b, c;
} instruction;
static uint32_t registers[16], memory[256];

static NOINLINE uint32_t execute(const instruction *code, uint32_t fuel) {
  const instruction *pc = code;
  while (fuel--) {
    const instruction i = *pc++;
    switch (i.op) {
      case 0: registers[i.a] = registers[i.b] + registers[i.c]; break;
      case 1: registers[i.a] = registers[i.b] - registers[i.c]; break;
      case 2: registers[i.a] = registers[i.b] * registers[i.c]; break;
      case 3: registers[i.a] = i.b; break;
      case 4: registers[i.a] = memory[registers[i.b] & 255]; break;
      case 5: memory[registers[i.b] & 255] = registers[i.a]; break;
      case 6:
        if (registers[i.a] < registers[i.b]) pc += (int8_t)i.c;
        break;
      case 7:
        if (registers[i.a]) pc += (int8_t)i.c;
        break;
      case 8: registers[i.a] ^= registers[i.b] << (i.c & 31); break;
      case 9: registers[i.a] += (uint32_t)(int8_t)i.b; break;
      default: return registers[0];
    }
  }
  return registers[1];
}

typedef struct {
  uint8_t tag;
  union {
    int32_t whole;
    double real;
  } as;
} value;
static value stack[64];
static NOINLINE double evaluate(const uint8_t *code, double x) {
  value *sp = stack;
  for (;;) {
    switch (*code++) {
      case 'n': *sp++ = (value){0, {.whole = *code++}}; break;
      case 'x': *sp++ = (value){1, {.real = x}}; break;
      case '+':
        sp--;
        if (sp[-1].tag == 0 && sp[0].tag == 0)
          sp[-1].as.whole += sp[0].as.whole;
        else
          sp[-1] = (value){1, {.real = (sp[-1].tag ? sp[-1].as.real : sp[-1].as.whole) +
                                       (sp[0].tag ? sp[0].as.real : sp[0].as.whole)}};
        break;
      case '*':
        sp--;
        if (sp[-1].tag == 0 && sp[0].tag == 0)
          sp[-1].as.whole *= sp[0].as.whole;
        else
          sp[-1] = (value){1, {.real = (sp[-1].tag ? sp[-1].as.real : sp[-1].as.whole) *
                                       (sp[0].tag ? sp[0].as.real : sp[0].as.whole)}};
        break;
      case 'd':
        sp[0] = sp[-1];
        sp++;
        break;
      default: return sp[-1].tag ? sp[-1].as.real : sp[-1].as.whole;
    }
  }
}

static NOINLINE uint32_t scan(const char *text) { /* identifiers, numbers, comments */
  enum { PLAIN, WORD, NUMBER, COMMENT } state = PLAIN;
  uint32_t tokens = 0, lines = 0;
  for (; *text; text++) {
    const char ch = *text;
    lines += ch == '\n';
    switch (state) {
      case PLAIN:
        if ((ch | 32) >= 'a' && (ch | 32) <= 'z') state = WORD;
        else if (ch >= '0' && ch <= '9') state = NUMBER;
        else if (ch == '#') state = COMMENT;
        tokens += state != PLAIN;
        break;
      case WORD:
        if (!(((ch | 32) >= 'a' && (ch | 32) <= 'z') || ch == '_' || (ch >= '0' && ch <= '9')))
          state = PLAIN;
        break;
      case NUMBER:
        if (!((ch >= '0' && ch <= '9') || ch == '.')) state = PLAIN;
        break;
      default:
        if (ch == '\n') state = PLAIN;
    }
  }
  return tokens * 100 + lines;
}

typedef struct object object;
struct object {
  object *links[3];
  uint16_t mark, kind;
};
static object objects[500];
static object *gray[500];
static NOINLINE uint32_t mark(object *root, uint16_t color) {
  uint32_t n = 0, found = 0;
  gray[n++] = root;
  root->mark = color;
  while (n) {
    object *o = gray[--n];
    found++;
    for (uint32_t i = 0; i < 3; i++) {
      object *to = o->links[i];
      if (to && to->mark != color) {
        to->mark = color;
        gray[n++] = to;
      }
    }
  }
  return found;
}

uint32_t run(uint32_t n) {
  static const instruction loop[] = {{3, 2, 40, 0}, {3, 1, 1, 0}, {3, 3, 0, 0}, {0, 3, 3, 2},
                                     {8, 4, 3, 3},  {5, 4, 2, 0}, {4, 5, 3, 0}, {2, 5, 5, 1},
                                     {0, 0, 0, 5},  {1, 2, 2, 1}, {6, 1, 2, 0xF8}, {10, 0, 0, 0}};
  static const uint8_t polynomial[] = "xn\x03*n\x02n\x05*+xdd**+;";
  uint32_t sum = 0, seed = 31;
  for (uint32_t i = 0; i < 500; i++)
    for (uint32_t k = 0; k < 3; k++)
      objects[i].links[k] = next_random(&seed) % 5 ? &objects[next_random(&seed) % 500] : 0;
  for (uint32_t i = 0; i < n; i++) {
    sum += execute(loop, 2000) + (uint32_t)(int32_t)evaluate(polynomial, i % 50);
    sum += scan("int main(void) { # a comment\n  return x1 + 42 * y_2 - 3.5; }\n# the end\n");
    sum += mark(objects, (uint16_t)(i + 1));
  }
  return sum;
}
