/* A baseline JPEG encoder for 4:2:0 pictures: the codec of transcoding. */

#ifndef JPEG_H
#define JPEG_H

#include "y4m.h"

#include <stddef.h>
#include <stdint.h>

struct jpeg;

/* Makes an encoder for pictures of one size. `quality` is 1 (smallest) to 100 (best). NULL if there
 * is no memory. */
struct jpeg *jpeg_new(int width, int height, int quality);

/* Encodes one picture. Returns the number of bytes; `*bytes` are the encoder's own and hold until
 * the next call. */
size_t jpeg_encode(struct jpeg *encoder, const struct picture *picture, const uint8_t **bytes);

#endif
