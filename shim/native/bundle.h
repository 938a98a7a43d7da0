// SPDX-License-Identifier: Apache-2.0
// Where the bundle of the running program lies, and how its interpreter is started.
//
//   ROOT/VERSION/{bin,lib,python,site}     ROOT is /opt/architect on nodes
#ifndef ARCHITECT_BUNDLE_H
#define ARCHITECT_BUNDLE_H

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bundle {
  char root[PATH_MAX / 4];     // holds the versions, runtime.conf and `current`
  char version[PATH_MAX / 4];  // ROOT/VERSION
  char python[PATH_MAX / 2];
};

static inline int is_below(const char *path, const char *directory) {
  size_t length = strlen(directory);
  return !strncmp(path, directory, length) && path[length] == '/';
}

// Fails with errno set; the paths are short enough for every use below.
static inline int find_bundle(struct bundle *bundle) {
  char path[PATH_MAX / 4];
  ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  for (int up = 0; up < 3; up++) {
    char *slash = strrchr(path, '/');
    if (!slash) return errno = ENOENT, 0;
    *slash = 0;
    if (up == 1) strcpy(bundle->version, path);
  }
  strcpy(bundle->root, path);
  snprintf(bundle->python, sizeof bundle->python, "%s/python/bin/python3", bundle->version);
  return 1;
}

// Replaces this process by the bundle's interpreter, which runs *code* with *arguments* (ended by
// NULL) and nothing of the host's: isolated, without site, without user or environment settings,
// with the bundle's own loader and libraries. Returns only on failure, with errno set.
static inline void run_python(const struct bundle *bundle, const char *code, char **arguments) {
  char loader[PATH_MAX / 2], library[PATH_MAX / 2], program[PATH_MAX];
  snprintf(library, sizeof library, "%s/lib", bundle->version);
  snprintf(loader, sizeof loader, "%s/lib/loader", bundle->version);
  snprintf(program, sizeof program, "import sys;sys.path.append('%s/site');%s", bundle->version,
           code);
  size_t count = 0;
  while (arguments[count]) count++;
  char **argv = calloc(count + 12, sizeof *argv), **next = argv;
  if (!argv) return;
  if (access(loader, X_OK) == 0) {
    *next++ = loader;
    *next++ = "--inhibit-cache";  // /etc/ld.so.cache is the host's
    *next++ = "--library-path";
    *next++ = library;
  }
  *next++ = (char *)bundle->python;
  *next++ = "-ISB";
  *next++ = "-c";
  *next++ = program;
  memcpy(next, arguments, count * sizeof *argv);
  execv(argv[0], argv);
  free(argv);
}

#endif
