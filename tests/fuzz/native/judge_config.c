// SPDX-License-Identifier: Apache-2.0
// The launcher's look at config.json, for inputs on standard input: each is a length of four bytes
// in network order and that many bytes. For each, one byte says what was decided: '1', to ask the
// interpreter; '0', to pass the call on.
//
// Built with the sanitizers by fuzz.targets.launcher. A file is not mapped but copied to a block of
// exactly its size, beyond which they see every access.
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static char *copied;

static void *mapped(void *where, size_t length, int protection, int flags, int fd, off_t offset) {
  (void)where, (void)protection, (void)flags;
  free(copied);
  copied = malloc(length);
  return copied && pread(fd, copied, length, offset) == (ssize_t)length ? copied : MAP_FAILED;
}

#define mmap mapped
#define main launcher_main
#include "launcher.c"
#undef main
#undef mmap

static int filled(void *at, size_t length) {
  for (size_t got = 0; got < length;) {
    ssize_t now = read(0, (char *)at + got, length - got);
    if (now <= 0) return 0;
    got += (size_t)now;
  }
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/config.json", argv[1]);
  uint32_t big;
  while (filled(&big, sizeof big)) {
    size_t length = ntohl(big);
    char *input = malloc(length + 1);
    if (!input || !filled(input, length)) return 2;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, input, length) != (ssize_t)length || close(fd)) return 2;
    char *words[] = {"runc", "--root", "/r", "create", "--bundle", argv[1], "id1", NULL};
    char answer = wants_management(argv[1]) ? '1' : '0';
    if (is_ours(7, words) != (answer == '1')) abort();
    free(input);
    if (write(1, &answer, 1) != 1) return 2;
    int opened = open("/dev/null", O_RDONLY);
    if (opened > 64) closefrom(4);  // the program leaves its descriptors to execv
    else close(opened);
  }
  return 0;
}
