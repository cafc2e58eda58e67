/* Writing AVI: see avi.h.
 *
 *     RIFF "AVI "
 *       LIST "hdrl"
 *         "avih"                  the film: size, duration, number of streams
 *         LIST "strl"
 *           "strh" "strf"         its one stream: codec, rate; format of the picture
 *       LIST "movi"
 *         "00dc" ...              one chunk for each frame
 *       "idx1"                    where each frame is
 *
 * All numbers are little-endian; chunks begin at even offsets.
 */

#include "avi.h"

#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 8, /* four letters and a size */
    AVIH = 56,
    STRH = 56,
    STRF = 40,
    STRL = 4 + CHUNK + STRH + CHUNK + STRF,
    HDRL = 4 + CHUNK + AVIH + CHUNK + STRL,
    HEADER = CHUNK + 4 + CHUNK + HDRL + CHUNK + 4, /* up to the first frame */
    INDEX_ENTRY = 16,
    HAS_INDEX = 0x10,
    KEY_FRAME = 0x10,
};

static const uint32_t LARGEST_FILE = 0x7fffffff; /* what every player of this format can seek in */

struct bytes {
    uint8_t data[HEADER];
    size_t length;
};

static void put(struct bytes *bytes, uint32_t number, int size) {
    for (int i = 0; i < size; i++) {
        bytes->data[bytes->length++] = (uint8_t)(number >> 8 * i);
    }
}

static void put_name(struct bytes *bytes, const char *name) {
    memcpy(bytes->data + bytes->length, name, 4);
    bytes->length += 4;
}

static void put_chunk(struct bytes *bytes, const char *name, uint32_t size) {
    put_name(bytes, name);
    put(bytes, size, 4);
}

static void put_list(struct bytes *bytes, const char *name, uint32_t size, const char *kind) {
    put_chunk(bytes, name, size);
    put_name(bytes, kind);
}

static const char *write_header(struct avi *film) {
    uint32_t index = film->frames * INDEX_ENTRY;
    uint32_t microseconds = (uint32_t)(1000000ull * (uint32_t)film->scale / (uint32_t)film->rate);
    struct bytes header = {.length = 0};
    put_list(&header, "RIFF", HEADER - CHUNK + film->movi + CHUNK + index, "AVI ");
    put_list(&header, "LIST", HDRL, "hdrl");
    put_chunk(&header, "avih", AVIH);
    put(&header, microseconds, 4); /* a frame's duration */
    put(&header, 0, 4);            /* largest data rate: not known */
    put(&header, 0, 4);            /* padding */
    put(&header, HAS_INDEX, 4);
    put(&header, film->frames, 4);
    put(&header, 0, 4); /* initial frames */
    put(&header, 1, 4); /* streams */
    put(&header, film->largest, 4);
    put(&header, (uint32_t)film->width, 4);
    put(&header, (uint32_t)film->height, 4);
    for (int i = 0; i < 4; i++) {
        put(&header, 0, 4); /* reserved */
    }
    put_list(&header, "LIST", STRL, "strl");
    put_chunk(&header, "strh", STRH);
    put_name(&header, "vids");
    put_name(&header, "MJPG");
    put(&header, 0, 4); /* flags */
    put(&header, 0, 4); /* priority and language */
    put(&header, 0, 4); /* initial frames */
    put(&header, (uint32_t)film->scale, 4);
    put(&header, (uint32_t)film->rate, 4);
    put(&header, 0, 4); /* start */
    put(&header, film->frames, 4);
    put(&header, film->largest, 4);
    put(&header, 0xffffffff, 4); /* quality: the codec's own */
    put(&header, 0, 4);          /* size of a sample: they vary */
    put(&header, 0, 4);          /* left and top */
    put(&header, (uint32_t)film->width, 2);
    put(&header, (uint32_t)film->height, 2);
    put_chunk(&header, "strf", STRF);
    put(&header, STRF, 4);
    put(&header, (uint32_t)film->width, 4);
    put(&header, (uint32_t)film->height, 4);
    put(&header, 1, 2);  /* planes */
    put(&header, 24, 2); /* bits of a decoded sample */
    put_name(&header, "MJPG");
    put(&header, 3u * (uint32_t)film->width * (uint32_t)film->height, 4);
    for (int i = 0; i < 4; i++) {
        put(&header, 0, 4); /* resolution and palette */
    }
    put_list(&header, "LIST", 4 + film->movi, "movi");
    if (fwrite(header.data, 1, header.length, film->file) != header.length) {
        return "cannot be written";
    }
    return NULL;
}

const char *avi_begin(struct avi *film) {
    return write_header(film);
}

const char *avi_frame(struct avi *film, const uint8_t *bytes, size_t size) {
    uint64_t padded = (uint64_t)size + (size & 1);
    if (HEADER + film->movi + CHUNK + padded + CHUNK + (film->frames + 1ull) * INDEX_ENTRY >
        LARGEST_FILE) {
        return "would be larger than the 2 GiB of an AVI file; ask for fewer frames";
    }
    if (film->frames == film->capacity) {
        uint32_t capacity = film->capacity == 0 ? 256 : 2 * film->capacity;
        struct avi_entry *index = realloc(film->index, capacity * sizeof *index);
        if (index == NULL) {
            return "has so many frames that memory does not hold their index";
        }
        film->index = index;
        film->capacity = capacity;
    }
    film->index[film->frames++] = (struct avi_entry){4 + film->movi, (uint32_t)size};
    film->movi += CHUNK + (uint32_t)padded;
    film->largest = size > film->largest ? (uint32_t)size : film->largest;

    struct bytes chunk = {.length = 0};
    put_chunk(&chunk, "00dc", (uint32_t)size);
    fwrite(chunk.data, 1, chunk.length, film->file);
    fwrite(bytes, 1, size, film->file);
    if (size & 1) {
        putc(0, film->file);
    }
    return ferror(film->file) ? "cannot be written" : NULL;
}

const char *avi_end(struct avi *film) {
    struct bytes chunk = {.length = 0};
    put_chunk(&chunk, "idx1", film->frames * INDEX_ENTRY);
    fwrite(chunk.data, 1, chunk.length, film->file);
    for (uint32_t i = 0; i < film->frames; i++) {
        struct bytes entry = {.length = 0};
        put_chunk(&entry, "00dc", KEY_FRAME);
        put(&entry, film->index[i].offset, 4);
        put(&entry, film->index[i].size, 4);
        fwrite(entry.data, 1, entry.length, film->file);
    }
    if (ferror(film->file) || fseek(film->file, 0, SEEK_SET) != 0) {
        return "cannot be written";
    }
    const char *error = write_header(film);
    if (error == NULL && fflush(film->file) != 0) {
        error = "cannot be written";
    }
    return error;
}
