/* Pointers that are filled when they are first needed, such as those to compiled code. Who has made
 * what a pointer leads to publishes the pointer by a release. Who reads the pointer with
 * WSR_PUBLISHED sees all that was made. That read is the weakest one of C11 that is right: it
 * orders only what is read through the pointer. On x86-64 it is a plain load. */
#ifndef WSR_PUBLISH_H
#define WSR_PUBLISH_H
#include <stdatomic.h>

#define WSR_PUBLISHED(place) atomic_load_explicit(place, memory_order_consume)
#define WSR_PUBLISH(place, value) atomic_store_explicit(place, value, memory_order_release)
/* Publish, unless another thread was faster: then false, and `*first`, which was NULL, is the
 * pointer of that thread. */
#define WSR_PUBLISH_FIRST(place, first, value)                                       \
  atomic_compare_exchange_strong_explicit(place, first, value, memory_order_acq_rel, \
                                          memory_order_acquire)

#endif
