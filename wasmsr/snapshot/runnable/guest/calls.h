/* The calls of WASI preview 1 that the program inside makes. */
#ifndef CALLS_H
#define CALLS_H
#include "descriptors.h"

/* Perform a call. `memory` is the program's, whose pointers the arguments are.
 * Returns its errno. `proc_exit` and signals do not return. */
uint32_t perform_call(wasi_state *of, uint32_t call, const uint64_t *arguments, span memory);
#endif
