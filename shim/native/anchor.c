// SPDX-License-Identifier: Apache-2.0
// Stands for one container of gVisor towards the engine, which knows it by a process of its own.
//
//   architect-anchor PROGRAM ARGUMENT…     what waits for the container: runsc … wait ID
//
// All containers of a gVisor pod live in one process, the sandbox. The engine wants a child whose
// end, with its status, is the container's; and it gives the container's stdio when it is created,
// while runsc wants it when it is started. So this process has both:
//
//   it holds the stdio with which it was started, from where runsc is given it at the start;
//   SIGUSR1 says that the container runs: it lets go of the stdio, runs PROGRAM, and exits with the
//   number behind "exitStatus" in what that prints (137 if there is none: the sandbox died).
//
// Descriptor 3 is closed once it listens. Its parent is whoever adopts orphans: the engine's shim.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READY_FD = 3, BROKEN = 125, LOST = 128 + SIGKILL };

static const char KEY[] = "\"exitStatus\":";

static int status_in(int fd) {
  char text[4096], rest[512];
  size_t length = 0;
  ssize_t now;
  while (length < sizeof text - 1 && (now = read(fd, text + length, sizeof text - 1 - length)) > 0)
    length += (size_t)now;
  while (read(fd, rest, sizeof rest) > 0) {}  // until it has ended
  text[length] = 0;
  const char *found = strstr(text, KEY);
  return found ? atoi(found + sizeof KEY - 1) & 0xff : LOST;
}

int main(int argc, char **argv) {
  sigset_t started;
  int number, ends[2], null;
  if (argc < 2) return BROKEN;
  setsid();
  sigemptyset(&started);
  sigaddset(&started, SIGUSR1);
  sigprocmask(SIG_BLOCK, &started, NULL);
  close(READY_FD);
  if (sigwait(&started, &number)) return BROKEN;
  // Who holds these ends keeps the engine waiting for the end of the container's output.
  null = open("/dev/null", O_RDWR);
  if (null < 0 || pipe2(ends, O_CLOEXEC)) return BROKEN;
  for (int fd = 0; fd < 3; fd++) dup2(null, fd);
  pid_t child = fork();
  if (child == 0) {
    sigprocmask(SIG_UNBLOCK, &started, NULL);
    dup2(ends[1], 1);
    execv(argv[1], argv + 1);
    _exit(BROKEN);
  }
  close(ends[1]);
  number = status_in(ends[0]);
  if (child > 0) waitpid(child, NULL, 0);
  return number;
}
