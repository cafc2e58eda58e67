/* cat: copies a file to standard output through WASI, 64 bytes at a time.
 *
 *     cat [FILE]      FILE is test.txt when not given; "-" is standard input
 *
 * Each piece is one fd_read and one fd_write without a buffer in between, so the program can be
 * saved in the middle of the file: the position is then in the descriptor and nowhere else.
 */

#include "preopened.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 64 };

static int complain(const char *what) {
    /* One write, so that the line cannot be torn apart. */
    char line[256] = "cat: ";
    strncat(line, what, 128);
    strcat(line, ": ");
    strncat(line, strerror(errno), 64);
    strcat(line, "\n");
    (void)!write(STDERR_FILENO, line, strlen(line));
    return 1;
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "test.txt";
    int file = strcmp(name, "-") == 0 ? STDIN_FILENO : open_preopened(name);
    if (file < 0) {
        return complain(name);
    }
    char piece[PIECE];
    for (;;) {
        ssize_t got = read(file, piece, sizeof piece);
        if (got < 0) {
            return complain(name);
        }
        if (got == 0) {
            return 0;
        }
        for (ssize_t done = 0; done < got;) {
            ssize_t put = write(STDOUT_FILENO, piece + done, (size_t)(got - done));
            if (put < 0) {
                return complain("standard output");
            }
            done += put;
        }
    }
}
