/* transcoding: YUV4MPEG2 to Motion-JPEG in AVI, the example that has a lot to do.
 *
 *     transcoding [OPTIONS] INPUT OUTPUT
 *       --frames N     so many frames: the input's first, or over and over when it has fewer
 *       --scale N      enlarge N times in both directions (1 to 8)
 *       --quality Q    1 (smallest) to 100 (best), default 75
 *       --progress N   a line on standard error every N frames, default 25, 0 for none
 *
 * Frames go y4m.c -> enlarge (here) -> jpeg.c -> avi.c. The output is a function of the input and
 * the options and of nothing else: however often the program is stopped and moved, the bytes are
 * the same. It has state of every kind worth moving: two open files, one of them read in circles
 * and one written and at the end sought back in, their buffers, an index that grows, and deep
 * loops.
 */

#include "avi.h"
#include "jpeg.h"
#include "preopened.h"
#include "y4m.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options {
    long frames; /* 0: as many as the input has */
    long scale;
    long quality;
    long progress;
    const char *input;
    const char *output;
};

static const char usage[] =
    "usage: transcoding [--frames N] [--scale 1..8] [--quality 1..100] [--progress N] "
    "INPUT OUTPUT\n";

static _Noreturn void fail(const char *subject, const char *what) {
    fprintf(stderr, "transcoding: %s: %s\n", subject, what);
    exit(1);
}

static _Noreturn void fail_usage(void) {
    fputs(usage, stderr);
    exit(2);
}

static long number_between(const char *text, long smallest, long largest) {
    char *end = NULL;
    errno = 0;
    long number = text != NULL ? strtol(text, &end, 10) : 0;
    if (text == NULL || end == text || *end != '\0' || errno != 0 || number < smallest ||
        number > largest) {
        fail_usage();
    }
    return number;
}

static struct options parse(char **argument) {
    struct options options = {.scale = 1, .quality = 75, .progress = 25};
    for (argument++; *argument != NULL; argument++) {
        if (strcmp(*argument, "--frames") == 0) {
            options.frames = number_between(*++argument, 1, 1000000000);
        } else if (strcmp(*argument, "--scale") == 0) {
            options.scale = number_between(*++argument, 1, 8);
        } else if (strcmp(*argument, "--quality") == 0) {
            options.quality = number_between(*++argument, 1, 100);
        } else if (strcmp(*argument, "--progress") == 0) {
            options.progress = number_between(*++argument, 0, 1000000000);
        } else if (strncmp(*argument, "--", 2) == 0) {
            fail_usage();
        } else if (options.input == NULL) {
            options.input = *argument;
        } else if (options.output == NULL) {
            options.output = *argument;
        } else {
            fail_usage();
        }
    }
    if (options.output == NULL) {
        fail_usage();
    }
    return options;
}

/* Enlarges one plane `scale` times, interpolating between the four nearest samples. An output
 * sample lies at (2 x + 1 - scale) / (2 scale) of the input. Beyond the edge the last sample is
 * repeated. */
static void enlarge_plane(const uint8_t *from, int width, int height, uint8_t *to, int scale) {
    int unit = 2 * scale;
    for (int y = 0; y < height * scale; y++) {
        int down = 2 * y + 1 - scale + unit; /* one sample further down, so that it is positive */
        int top = down / unit - 1;
        int below = down % unit;
        const uint8_t *upper = from + (top < 0 ? 0 : top) * width;
        const uint8_t *lower = from + (top + 1 < height ? top + 1 : height - 1) * width;
        for (int x = 0; x < width * scale; x++) {
            int right = 2 * x + 1 - scale + unit;
            int left = right / unit - 1;
            int beyond = right % unit;
            int here = left < 0 ? 0 : left;
            int next = left + 1 < width ? left + 1 : width - 1;
            int sum = (unit - below) * ((unit - beyond) * upper[here] + beyond * upper[next]) +
                      below * ((unit - beyond) * lower[here] + beyond * lower[next]);
            *to++ = (uint8_t)((sum + unit * unit / 2) / (unit * unit));
        }
    }
}

/* Enlarges a picture of even width and height; with an odd one the enlarged chroma planes would be
 * larger than what belongs to the enlarged luma. */
static void enlarge(const struct picture *from, struct picture *to, int scale) {
    for (int i = 0; i < 3; i++) {
        enlarge_plane(from->planes[i], plane_width(from, i), plane_height(from, i), to->planes[i],
                      scale);
    }
}

/* Reads the next frame, from the start again where more are wanted than there are. False when no
 * more are wanted. */
static bool next_frame(struct y4m *film, const struct options *options, long done,
                       struct picture *picture) {
    if (options->frames != 0 && done == options->frames) {
        return false;
    }
    const char *error = NULL;
    enum y4m_result result = y4m_read(film, picture, &error);
    if (result == Y4M_END && options->frames == 0) {
        return false;
    }
    if (result == Y4M_END) {
        if (done == 0 || !y4m_rewind(film)) {
            fail(options->input, done == 0 ? "has no frames" : "cannot be read a second time");
        }
        result = y4m_read(film, picture, &error);
    }
    if (result != Y4M_FRAME) {
        fail(options->input, error);
    }
    return true;
}

static void report(const struct options *options, long done, const struct avi *output) {
    if (options->frames != 0) {
        fprintf(stderr, "frame %ld of %ld, %u bytes\n", done, options->frames,
                (unsigned)output->movi);
    } else {
        fprintf(stderr, "frame %ld, %u bytes\n", done, (unsigned)output->movi);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    struct options options = parse(argv);
    int scale = (int)options.scale;

    int descriptor = open_preopened(options.input);
    FILE *input = descriptor < 0 ? NULL : fdopen(descriptor, "rb");
    if (input == NULL) {
        fail(options.input, strerror(errno));
    }
    struct y4m film;
    const char *error = y4m_open(&film, input);
    if (error != NULL) {
        fail(options.input, error);
    }
    if (scale > 1 && (film.width % 2 != 0 || film.height % 2 != 0)) {
        fail(options.input, "only film of an even width and height can be enlarged");
    }
    if (film.width * scale > 65500 || film.height * scale > 65500) {
        fail(options.input, "the result would be larger than 65500, the limit of JPEG");
    }
    struct picture picture;
    struct picture enlarged;
    struct jpeg *encoder = jpeg_new(film.width * scale, film.height * scale, (int)options.quality);
    if (encoder == NULL || !picture_allocate(&picture, film.width, film.height) ||
        !picture_allocate(&enlarged, film.width * scale, film.height * scale)) {
        fail(options.input, "there is not enough memory for pictures of this size");
    }

    FILE *file = fopen(options.output, "wb");
    if (file == NULL) {
        fail(options.output, strerror(errno));
    }
    struct avi output = {.file = file,
                         .width = film.width * scale,
                         .height = film.height * scale,
                         .rate = film.rate,
                         .scale = film.scale};
    error = avi_begin(&output);
    long done = 0;
    while (error == NULL && next_frame(&film, &options, done, &picture)) {
        const uint8_t *bytes = NULL;
        if (scale > 1) {
            enlarge(&picture, &enlarged, scale);
        }
        size_t size = jpeg_encode(encoder, scale > 1 ? &enlarged : &picture, &bytes);
        error = avi_frame(&output, bytes, size);
        done++;
        if (options.progress != 0 && done % options.progress == 0) {
            report(&options, done, &output);
        }
    }
    if (error == NULL) {
        error = avi_end(&output);
    }
    if (fclose(file) != 0 && error == NULL) {
        error = "cannot be written";
    }
    if (error != NULL) {
        fail(options.output, error);
    }
    if (options.progress != 0 && done % options.progress != 0) {
        report(&options, done, &output);
    }
    return 0;
}
