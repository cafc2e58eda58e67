/* Opening files for reading where WASI has put them: see preopened.h.
 *
 * A WASI program starts with descriptors of the folders that it may use, from 3 on, each under a
 * name. The C library looks a relative name up in the folder called "." or "/" and finds nothing
 * when the host has mounted its folder under another name. So try each folder in turn.
 */

#include "preopened.h"

#include <errno.h>
#include <fcntl.h>

enum { FIRST_PREOPENED = 3 };

int open_preopened(const char *name) {
    int file = open(name, O_RDONLY);
    int first_error = errno;
    for (int folder = FIRST_PREOPENED; file < 0 && name[0] != '/'; folder++) {
        file = openat(folder, name, O_RDONLY);
        if (file < 0 && errno == EBADF) {
            break; /* that was the last folder */
        }
    }
    if (file < 0) {
        errno = first_error;
    }
    return file;
}
