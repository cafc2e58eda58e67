/* The same through wasi-libc: what C programs do, by stdio, dirent and stat. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                               \
  do                                                                   \
    if (!(condition)) {                                                \
      fprintf(stderr, "line %d: %s, %s\n", __LINE__, #condition, strerror(errno)); \
      exit(1);                                                         \
    }                                                                  \
  while (0)

int main(int argc, char **argv) {
  char line[100];
  struct stat found, link;
  CHECK(argc == 2 && !strcmp(argv[1], "argument") && !strcmp(getenv("KEY"), "value"));
  CHECK(chdir("/data") == 0 && getcwd(line, sizeof line) && !strcmp(line, "/data"));

  FILE *file = fopen("text", "w+");
  CHECK(file);
  for (int i = 0; i < 1000; i++) CHECK(fprintf(file, "line %d\n", i) > 0);
  CHECK(fflush(file) == 0 && fseek(file, -9, SEEK_END) == 0);
  CHECK(fgets(line, sizeof line, file) && !strcmp(line, "line 999\n"));
  rewind(file);
  for (int i = 0; fgets(line, sizeof line, file); i++) CHECK(atoi(line + 5) == i);
  CHECK(feof(file) && ftruncate(fileno(file), 7) == 0 && fclose(file) == 0);
  file = fopen("text", "a");
  CHECK(file && fputs("more", file) >= 0 && fclose(file) == 0);
  CHECK(stat("text", &found) == 0 && found.st_size == 11 && S_ISREG(found.st_mode));
  CHECK(fopen("none", "r") == NULL && errno == ENOENT);
  CHECK(open("text", O_CREAT | O_EXCL | O_WRONLY, 0666) < 0 && errno == EEXIST);
  CHECK(open("text", O_RDONLY | O_DIRECTORY) < 0 && errno == ENOTDIR);

  CHECK(mkdir("folder", 0777) == 0 && mkdir("folder", 0777) < 0 && errno == EEXIST);
  CHECK(symlink("../text", "folder/link") == 0 && lstat("folder/link", &link) == 0);
  CHECK(S_ISLNK(link.st_mode) && stat("folder/link", &link) == 0 && link.st_ino == found.st_ino);
  CHECK(readlink("folder/link", line, sizeof line) == 7);
  CHECK(rename("text", "folder/text") == 0 && access("text", F_OK) < 0 && errno == ENOENT);
  CHECK(rmdir("folder") < 0 && errno == ENOTEMPTY);

  DIR *folder = opendir("folder");
  CHECK(folder);
  int names = 0;
  for (struct dirent *entry; (entry = readdir(folder));) {
    if (entry->d_name[0] == '.') continue;
    names++;
    CHECK(unlinkat(dirfd(folder), entry->d_name, 0) == 0);
  }
  CHECK(names == 2 && closedir(folder) == 0 && rmdir("folder") == 0);

  struct timespec begun, ended, rest = {0, 10000000};
  CHECK(clock_gettime(CLOCK_MONOTONIC, &begun) == 0 && nanosleep(&rest, NULL) == 0);
  CHECK(clock_gettime(CLOCK_MONOTONIC, &ended) == 0);
  CHECK((ended.tv_sec - begun.tv_sec) * 1000000000ll + ended.tv_nsec - begun.tv_nsec >= 10000000);
  CHECK(scanf("%99s", line) == 1 && !strcmp(line, "12345"));
  CHECK(printf("done\n") == 5 && fflush(stdout) == 0);
  return 0;
}
