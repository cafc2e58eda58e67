/* cat: copies a file to standard output through WASI, 64 bytes at a time.
 *
 *     cat [FILE]      FILE is test.txt when not given; "-" is standard input
 *
 * Each piece is one fd_read and one fd_write without a buffer in between, so the program can be
 * saved in the middle of the file: the position is then in the descriptor and nowhere else.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PIECE = 64, FIRST_PREOPEN = 3 };

/* Opens `name` where the C library looks for it, else in each preopened folder in turn: a folder
 * that is mounted under its host's name is not what a relative name is looked up in. */
static int open_anywhere(const char *name) {
    int file = open(name, O_RDONLY);
    int first_error = errno;
    for (int folder = FIRST_PREOPEN; file < 0 && name[0] != '/'; folder++) {
        file = openat(folder, name, O_RDONLY);
        if (file < 0 && errno == EBADF) {
            break; /* no more folders */
        }
    }
    if (file < 0) {
        errno = first_error;
    }
    return file;
}

static int complain(const char *what) {
    /* One write, so that the line cannot be torn apart. */
    const char *parts[] = {"cat: ", what, ": ", strerror(errno), "\n"};
    struct iovec line[5];
    for (int i = 0; i < 5; i++) {
        line[i].iov_base = (void *)parts[i];
        line[i].iov_len = strlen(parts[i]);
    }
    (void)!writev(STDERR_FILENO, line, 5);
    return 1;
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "test.txt";
    int file = strcmp(name, "-") == 0 ? STDIN_FILENO : open_anywhere(name);
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
