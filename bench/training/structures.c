/* Linked structures: an ordered tree, lists, a heap, a graph, an arena, virtual calls. */
#include "../kernels/kernel.h"

typedef struct node node;
struct node {
  node *left, *right;
  uint32_t key, priority, count;
};
enum { NODES = 3000, VERTICES = 400 };
static node arena[NODES];
static uint32_t used;

static NOINLINE node *insert(node *n, uint32_t key, uint32_t priority) {
  if (!n) {
    node *fresh = &arena[used++ % NODES];
    *fresh = (node){0, 0, key, priority, 1};
    return fresh;
  }
  if (key == n->key) {
    n->count++;
  } else if (key < n->key) {
    n->left = insert(n->left, key, priority);
    if (n->left->priority > n->priority) {
      node *l = n->left;
      n->left = l->right;
      l->right = n;
      return l;
    }
  } else {
    n->right = insert(n->right, key, priority);
    if (n->right->priority > n->priority) {
      node *r = n->right;
      n->right = r->left;
      r->left = n;
      return r;
    }
  }
  return n;
}
static NOINLINE uint32_t depth(const node *n) {
  if (!n) return 0;
  const uint32_t l = depth(n->left), r = depth(n->right);
  return (l > r ? l : r) + 1;
}

static uint32_t heap[VERTICES * 8], n_heap, distances[VERTICES];
static struct {
  uint32_t to, weight, next;
} edges[VERTICES * 4];
static uint32_t first[VERTICES];

static void push(uint32_t x) {
  uint32_t at = n_heap++;
  while (at && heap[(at - 1) / 2] > x) {
    heap[at] = heap[(at - 1) / 2];
    at = (at - 1) / 2;
  }
  heap[at] = x;
}
static uint32_t pop(void) {
  const uint32_t top = heap[0], x = heap[--n_heap];
  uint32_t at = 0;
  for (;;) {
    uint32_t child = 2 * at + 1;
    if (child >= n_heap) break;
    if (child + 1 < n_heap && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= x) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = x;
  return top;
}
static NOINLINE uint32_t shortest(uint32_t from) {
  for (uint32_t i = 0; i < VERTICES; i++) distances[i] = 60000;
  distances[from] = 0;
  n_heap = 0;
  push(from);
  while (n_heap) {
    const uint32_t x = pop(), v = x & 0xFFFF, d = x >> 16;
    if (d > distances[v]) continue;
    for (uint32_t e = first[v]; e; e = edges[e].next) {
      const uint32_t far = d + edges[e].weight;
      if (far < distances[edges[e].to]) {
        distances[edges[e].to] = far;
        if (n_heap < VERTICES * 8 - 1) push(far << 16 | edges[e].to);
      }
    }
  }
  uint32_t sum = 0;
  for (uint32_t i = 0; i < VERTICES; i++) sum += distances[i];
  return sum;
}

typedef struct shape shape;
typedef struct {
  double (*area)(const shape *);
  void (*grow)(shape *, double);
} methods;
struct shape {
  const methods *m;
  double a, b;
};
static double box_area(const shape *s) { return s->a * s->b; }
static void box_grow(shape *s, double by) { s->a += by, s->b += by; }
static double disc_area(const shape *s) { return 3.14159 * s->a * s->a; }
static void disc_grow(shape *s, double by) { s->a *= 1 + by; }
static const methods boxes = {box_area, box_grow}, discs = {disc_area, disc_grow};
static NOINLINE double total(shape *shapes, uint32_t n) {
  double sum = 0;
  for (uint32_t i = 0; i < n; i++) {
    shapes[i].m->grow(&shapes[i], 0.001);
    sum += shapes[i].m->area(&shapes[i]);
  }
  return sum;
}

uint32_t run(uint32_t n) {
  uint32_t seed = 77, sum = 0;
  static shape shapes[16];
  for (uint32_t i = 0; i < 16; i++) shapes[i] = (shape){i & 1 ? &boxes : &discs, i, 1};
  for (uint32_t e = 1; e < VERTICES * 4; e++) {
    const uint32_t from = next_random(&seed) % VERTICES;
    edges[e].to = next_random(&seed) % VERTICES;
    edges[e].weight = next_random(&seed) % 50 + 1;
    edges[e].next = first[from];
    first[from] = e;
  }
  for (uint32_t i = 0; i < n; i++) {
    node *root = 0;
    used = 0;
    for (uint32_t k = 0; k < 300; k++)
      root = insert(root, next_random(&seed) % 200, next_random(&seed));
    sum += depth(root) + shortest(i % VERTICES) + (uint32_t)total(shapes, 16);
  }
  return sum;
}
