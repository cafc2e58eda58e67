/* Reading YUV4MPEG2: see y4m.h.
 *
 * A film is one line "YUV4MPEG2 W160 H120 F25:1 C420jpeg ..." and then for each frame a line
 * "FRAME" with optional parameters, followed by the planes Y, Cb and Cr.
 */

#include "y4m.h"

#include <stdlib.h>
#include <string.h>

enum { LINE = 256, LARGEST_SIDE = 8192 };

bool picture_allocate(struct picture *picture, int width, int height) {
    picture->width = width;
    picture->height = height;
    for (int i = 0; i < 3; i++) {
        size_t size = (size_t)plane_width(picture, i) * (size_t)plane_height(picture, i);
        picture->planes[i] = malloc(size);
        if (picture->planes[i] == NULL) {
            return false;
        }
    }
    return true;
}

/* Reads up to the end of the line, which is left out. False when the file ends before, or the line
 * is longer than any sensible one. */
static bool read_line(FILE *file, char *line) {
    for (int length = 0; length < LINE; length++) {
        int byte = getc(file);
        if (byte == EOF || byte == '\n') {
            line[length] = '\0';
            return byte == '\n';
        }
        line[length] = (char)byte;
    }
    return false;
}

/* Takes one parameter such as "W160". Returns NULL, or what is wrong with it. */
static const char *take_parameter(struct y4m *film, const char *parameter) {
    const char *value = parameter + 1;
    switch (parameter[0]) {
    case 'W':
        film->width = atoi(value);
        return NULL;
    case 'H':
        film->height = atoi(value);
        return NULL;
    case 'F': {
        const char *colon = strchr(value, ':');
        film->rate = atoi(value);
        film->scale = colon != NULL ? atoi(colon + 1) : 0;
        return film->rate > 0 && film->scale > 0 ? NULL : "the frame rate is not a ratio";
    }
    case 'C': {
        /* The kinds of 4:2:0 differ in where the chroma samples lie, which is left as it is.
         * "420p10" and its like have samples of two bytes. */
        static const char *const known[] = {"420", "420jpeg", "420mpeg2", "420paldv"};
        for (int i = 0; i < 4; i++) {
            if (strcmp(value, known[i]) == 0) {
                return NULL;
            }
        }
        return "only the 8-bit 4:2:0 colour formats are known";
    }
    case 'I':
        return value[0] == 'p' || value[0] == '?' ? NULL : "interlaced film is not known";
    case 'X':
        if (strcmp(value, "COLORRANGE=FULL") == 0) {
            film->full_range = true;
        }
        return NULL;
    default:
        return NULL; /* the aspect ratio of samples, and comments */
    }
}

const char *y4m_open(struct y4m *film, FILE *file) {
    *film = (struct y4m){.file = file, .rate = 25, .scale = 1};
    char line[LINE];
    if (!read_line(file, line) || strncmp(line, "YUV4MPEG2", 9) != 0) {
        return "not a YUV4MPEG2 file";
    }
    for (char *parameter = strtok(line + 9, " "); parameter != NULL;
         parameter = strtok(NULL, " ")) {
        const char *error = take_parameter(film, parameter);
        if (error != NULL) {
            return error;
        }
    }
    if (film->width < 1 || film->height < 1 || film->width > LARGEST_SIDE ||
        film->height > LARGEST_SIDE) {
        return "width and height must be between 1 and 8192";
    }
    film->first_frame = ftell(file);
    return NULL;
}

static uint8_t clamp(int value) {
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

/* Limited range to full range: luma 16..235 and chroma 16..240 (128 in the middle) become
 * 0..255. */
static void expand(uint8_t *samples, size_t count, bool luma) {
    uint8_t expanded[256];
    for (int i = 0; i < 256; i++) {
        int wide = luma ? 510 * (i - 16) / 219 : 256 + 510 * (i - 128) / 224;
        expanded[i] = clamp((wide + 1) / 2);
    }
    for (size_t i = 0; i < count; i++) {
        samples[i] = expanded[samples[i]];
    }
}

enum y4m_result y4m_read(struct y4m *film, struct picture *picture, const char **error) {
    int byte = getc(film->file);
    if (byte == EOF) {
        *error = "cannot be read";
        return ferror(film->file) ? Y4M_ERROR : Y4M_END;
    }
    ungetc(byte, film->file);
    char line[LINE];
    if (!read_line(film->file, line) || strncmp(line, "FRAME", 5) != 0) {
        *error = "a frame does not begin with FRAME";
        return Y4M_ERROR;
    }
    for (int i = 0; i < 3; i++) {
        size_t size = (size_t)plane_width(picture, i) * (size_t)plane_height(picture, i);
        if (fread(picture->planes[i], 1, size, film->file) != size) {
            *error = "ends in the middle of a frame";
            return Y4M_ERROR;
        }
        if (!film->full_range) {
            expand(picture->planes[i], size, i == 0);
        }
    }
    return Y4M_FRAME;
}

bool y4m_rewind(struct y4m *film) {
    return film->first_frame >= 0 && fseek(film->file, film->first_frame, SEEK_SET) == 0;
}
