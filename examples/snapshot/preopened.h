/* Opening files for reading where WASI has put them; used by cat.c and transcoding.c. */

#ifndef PREOPENED_H
#define PREOPENED_H

/* Opens the file `name` for reading. Returns its descriptor, or -1 with errno set. */
int open_preopened(const char *name);

#endif
