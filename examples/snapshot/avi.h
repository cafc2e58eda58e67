/* Writing AVI with one stream of Motion-JPEG: transcoding's output. */

#ifndef AVI_H
#define AVI_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct avi_entry {
    uint32_t offset; /* of the frame's chunk from the word "movi" on */
    uint32_t size;
};

struct avi {
    FILE *file;
    int width;
    int height;
    int rate; /* frames in `scale` seconds */
    int scale;
    uint32_t frames;
    uint32_t largest;  /* bytes of the largest frame */
    uint32_t movi;     /* bytes of frames and their chunk headers so far */
    struct avi_entry *index;
    uint32_t capacity; /* entries for which there is room */
};

/* These return NULL, or what went wrong. avi_begin takes a struct in which file, width, height,
 * rate and scale are set and the rest is zero. avi_end writes the index, then goes back and writes
 * the header again, which now knows its numbers, and flushes. */
const char *avi_begin(struct avi *film);
const char *avi_frame(struct avi *film, const uint8_t *bytes, size_t size);
const char *avi_end(struct avi *film);

#endif
