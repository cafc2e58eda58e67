/* Reading YUV4MPEG2, the plain format for uncompressed film: transcoding's input. */

#ifndef Y4M_H
#define Y4M_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* One picture in 4:2:0: a full plane of luma and two of chroma with half as many columns and rows
 * (rounded up). Samples are bytes, rows stand one after the other without gaps. */
struct picture {
    int width;
    int height;
    uint8_t *planes[3];
};

/* Columns and rows of plane `index` of a picture. */
static inline int plane_width(const struct picture *picture, int index) {
    return index == 0 ? picture->width : (picture->width + 1) / 2;
}
static inline int plane_height(const struct picture *picture, int index) {
    return index == 0 ? picture->height : (picture->height + 1) / 2;
}

/* Allocates the planes; false if there is no memory. */
bool picture_allocate(struct picture *picture, int width, int height);

struct y4m {
    FILE *file;
    int width;
    int height;
    int rate;  /* frames ... */
    int scale; /* ... in so many seconds */
    bool full_range; /* samples use 0..255, not 16..235 and 16..240 */
    long first_frame; /* offset in the file, -1 where it cannot seek */
};

enum y4m_result { Y4M_FRAME, Y4M_END, Y4M_ERROR };

/* Reads the header of `file`. Returns NULL, or what is wrong with it. */
const char *y4m_open(struct y4m *film, FILE *file);

/* Reads the next frame into `picture`, which has the film's size, and brings its samples to full
 * range. On Y4M_ERROR `*error` says what is wrong. */
enum y4m_result y4m_read(struct y4m *film, struct picture *picture, const char **error);

/* Goes back to the first frame; false if the file cannot seek. */
bool y4m_rewind(struct y4m *film);

#endif
