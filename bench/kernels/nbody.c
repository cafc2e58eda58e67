/* Five bodies that attract each other, integrated in steps; the square root is Newton's. */
#include "kernel.h"

typedef struct {
  double x, y, z, vx, vy, vz, mass;
} body;

static body bodies[5];

static void begin(void) {
  for (int i = 0; i < 5; i++)
    bodies[i] = (body){i * 1.7 - 3, i * i * 0.6 - 2, 1.1 * i - 2, 0.1 * i, 0.2 - 0.05 * i, 0.03 * i,
                       1.0 / (1 + i)};
}

static void step(double dt) {
  for (int i = 0; i < 5; i++) {
    body *p = &bodies[i];
    for (int k = i + 1; k < 5; k++) {
      body *q = &bodies[k];
      const double dx = p->x - q->x, dy = p->y - q->y, dz = p->z - q->z;
      const double square = dx * dx + dy * dy + dz * dz + 0.01;
      const double force = dt / (square * __builtin_sqrt(square));
      p->vx -= dx * q->mass * force;
      p->vy -= dy * q->mass * force;
      p->vz -= dz * q->mass * force;
      q->vx += dx * p->mass * force;
      q->vy += dy * p->mass * force;
      q->vz += dz * p->mass * force;
    }
  }
  for (int i = 0; i < 5; i++) {
    bodies[i].x += dt * bodies[i].vx;
    bodies[i].y += dt * bodies[i].vy;
    bodies[i].z += dt * bodies[i].vz;
  }
}

uint32_t run(uint32_t n) {
  begin();
  for (uint32_t i = 0; i < n; i++) step(0.001);
  return (uint32_t)(int64_t)(bodies[0].x * 1e6 + bodies[3].vy * 1e5);
}
