/* walsync.c: writes down what a process writes to SQLite's write-ahead log and when it is synced (see power.py).
   cc -shared -fPIC -O1 -o walsync.so walsync.c -ldl; LD_PRELOAD=walsync.so WALSYNC=RECORD program */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int record = -1;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("WALSYNC");
  if (path) record = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* The time orders what several processes do to one log: a write is dated after it, a sync before it. */
static unsigned long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (unsigned long)t.tv_sec * 1000000000ul + (unsigned long)t.tv_nsec;
}

static int is_log(int fd) {
  char link[64], path[4096];
  if (record < 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  return n > 4 && memcmp(path + n - 4, "-wal", 4) == 0;
}

static void say(const char *line, int n) { syscall(SYS_write, record, line, (size_t)n); }

static ssize_t wrote(int fd, const void *data, size_t count, off_t offset) {
  ssize_t done = syscall(SYS_pwrite64, fd, data, count, offset);
  if (done > 0 && is_log(fd)) {
    struct stat s; char line[128]; fstat(fd, &s);
    say(line, snprintf(line, sizeof line, "W %lu %lu %ld %zd -\n", now(), (unsigned long)s.st_ino, (long)offset, done));
  }
  return done;
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t offset) { return wrote(fd, data, count, offset); }
ssize_t pwrite(int fd, const void *data, size_t count, off_t offset) { return wrote(fd, data, count, offset); }

static int synced(int fd, long call) {
  unsigned long at = now();
  int failed = (int)syscall(call, fd);
  if (!failed && is_log(fd)) {
    struct stat s; char line[64]; fstat(fd, &s);
    say(line, snprintf(line, sizeof line, "S %lu %lu\n", at, (unsigned long)s.st_ino));
  }
  return failed;
}

int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }
int fsync(int fd) { return synced(fd, SYS_fsync); }
