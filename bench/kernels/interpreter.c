/* An interpreter: a switch over the instructions of a small machine with registers. */
#include "kernel.h"

enum { ADD, SUB, MULTIPLY, MOVE, LOAD, STORE, SMALLER, JUMP_IF, SET, XOR, END };
typedef struct {
  uint8_t op, a, b, c;
  int32_t number;
} instruction;

/* sum = 0; for (i = 0; i != n; i++) { m[i & 63] += sum * 3; sum = sum ^ m[(i * 7) & 63] + i; } */
static const instruction program[] = {
    {SET, 1, 0, 0, 0}, {SET, 2, 0, 0, 0},     {SET, 3, 0, 0, 3},     {SET, 4, 0, 0, 7},
    {SET, 5, 0, 0, 1}, {MULTIPLY, 6, 1, 3, 0}, {LOAD, 7, 2, 0, 0},    {ADD, 7, 7, 6, 0},
    {STORE, 7, 2, 0, 0}, {MULTIPLY, 8, 2, 4, 0}, {LOAD, 9, 8, 0, 0},  {ADD, 9, 9, 2, 0},
    {XOR, 1, 1, 9, 0}, {ADD, 2, 2, 5, 0},     {SMALLER, 10, 2, 0, 0}, {JUMP_IF, 10, 0, 0, -11},
    {END, 1, 0, 0, 0},
};

static uint32_t memory[64];

uint32_t run(uint32_t n) {
  uint32_t r[16] = {n};
  const volatile instruction *pc = program;
  for (;; pc++) {
    const instruction i = {pc->op, pc->a, pc->b, pc->c, pc->number};
    switch (i.op) {
      case ADD: r[i.a] = r[i.b] + r[i.c]; break;
      case SUB: r[i.a] = r[i.b] - r[i.c]; break;
      case MULTIPLY: r[i.a] = r[i.b] * r[i.c]; break;
      case MOVE: r[i.a] = r[i.b]; break;
      case LOAD: r[i.a] = memory[r[i.b] & 63]; break;
      case STORE: memory[r[i.b] & 63] = r[i.a]; break;
      case SMALLER: r[i.a] = r[i.b] < r[i.c]; break;
      case JUMP_IF:
        if (r[i.a]) pc += i.number;
        break;
      case SET: r[i.a] = (uint32_t)i.number; break;
      case XOR: r[i.a] = r[i.b] ^ r[i.c]; break;
      default: return r[i.a];
    }
  }
}
