/* Whose turn it is to write to the index: one thread of one process (pacs/index/turn.py says what for). */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/file.h>

#include "native.h"

struct turn {
  pthread_mutex_t mutex; /* among the threads of this process: they share the open file, and with it its lock */
  int fd;                /* the lock among processes, which the kernel takes back from one that dies */
};

static struct turn *turn_at(uint64_t turn) { return (struct turn *)(uintptr_t)turn; }

int m3_turn_open(int fd, uint64_t *turn) {
  struct turn *made = malloc(sizeof *made);
  pthread_mutexattr_t kind;
  if (!made) return -ENOMEM;
  int failure = pthread_mutexattr_init(&kind);
  if (!failure) {
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ERRORCHECK); /* who takes it twice is told, and does not hang */
#if defined(__linux__)
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST); /* a thread that ends with it leaves it to the others */
#endif
    failure = pthread_mutex_init(&made->mutex, &kind);
    pthread_mutexattr_destroy(&kind);
  }
  if (failure) {
    free(made);
    return -failure;
  }
  made->fd = fd;
  *turn = (uint64_t)(uintptr_t)made;
  return 0;
}

/* EINTR is an answer, too: where Python waits in its main thread, it has signals to look after. */
int m3_turn_take(uint64_t turn, int wait) {
  struct turn *mine = turn_at(turn);
  int failure = wait ? pthread_mutex_lock(&mine->mutex) : pthread_mutex_trylock(&mine->mutex);
#if defined(__linux__)
  if (failure == EOWNERDEAD) failure = pthread_mutex_consistent(&mine->mutex);
#endif
  if (failure) return failure == EBUSY ? 0 : -failure;
  if (!flock(mine->fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB)) return 1;
  failure = errno;
  pthread_mutex_unlock(&mine->mutex);
  return failure == EWOULDBLOCK ? 0 : -failure;
}

void m3_turn_give(uint64_t turn) {
  struct turn *mine = turn_at(turn);
  flock(mine->fd, LOCK_UN);
  pthread_mutex_unlock(&mine->mutex);
}

void m3_turn_close(uint64_t turn) {
  struct turn *mine = turn_at(turn);
  int held = pthread_mutex_destroy(&mine->mutex);
  if (!held) free(mine); /* else somebody has it and will give it back: better a few bytes lost than written by nobody */
}
