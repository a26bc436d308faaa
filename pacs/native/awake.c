/* A processor kept from sleeping, for as long as a client asks again as soon as it is answered.

   On a virtual machine an idle processor is given back to the host, and to be woken takes as long as the whole answer,
   twice: for the server and for the client. Here a thread computes nothing instead. It runs at the lowest priority there is,
   and stops where more wants to run than there are processors: nobody waits for it. */
#define _GNU_SOURCE
#include <errno.h>

#include "native.h"

/* One such thread (pacs/server/awake.py has the same). */
struct m3_awake {
  volatile double until;      /* CLOCK_MONOTONIC, in seconds: written by who answers */
  volatile double rested;     /* before that it is not to be roused */
  volatile uint32_t asleep;   /* whether it has to be roused */
  volatile uint32_t ended;    /* it shall end */
  volatile uint32_t given_up; /* how often others wanted the processors */
  uint32_t processors;        /* that this process may use */
};

#if defined(__linux__)
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CROWDED = 32, PAUSES = 100 };
#define LOOK_S 0.0005   /* how often it is looked who wants to run */
#define STARVED_S 0.02  /* who has not run for so long sees that others do */
#define REST_S 0.01     /* after others did; twice as long each time that they do again soon, up to: */
#define LONGEST_REST_S 2.0
#define SOON 10 /* rests */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void pause_once(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* How many threads of the whole machine run or want to, this one included; 0: unknown. */
static unsigned long wanting(int fd) {
  char text[64];
  ssize_t size = pread(fd, text, sizeof text - 1, 0);
  if (size <= 0) return 0;
  text[size] = 0;
  char *at = text;
  for (int skip = 0; skip < 3; skip++) { /* the three averages */
    at = strchr(at, ' ');
    if (!at) return 0;
    at++;
  }
  return strtoul(at, NULL, 10);
}

/* Compute nothing until `until`, or until others want the processors; whether they did. */
static int keep(const struct m3_awake *a, int fd) {
  int crowded = 0;
  double look = 0, before = now();
  for (double t = before; t < a->until && !a->ended; before = t, t = now()) {
    if (t - before > STARVED_S) return 1;
    if (t >= look) {
      unsigned long count = wanting(fd);
      if (!count || count > a->processors) {
        if (++crowded == CROWDED) return 1;
      } else if (crowded) { /* who was just woken wants to run, too, for a moment */
        crowded -= crowded > 1 ? 2 : 1;
      }
      look = t + LOOK_S;
    }
    for (int i = 0; i < PAUSES; i++) pause_once();
  }
  return 0;
}

static void sleep_until_roused(struct m3_awake *a) {
  __atomic_store_n(&a->asleep, 1, __ATOMIC_SEQ_CST);
  if (a->until <= now() && !a->ended) syscall(SYS_futex, &a->asleep, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
  __atomic_store_n(&a->asleep, 0, __ATOMIC_SEQ_CST);
}

/* What the thread does until it is `ended`. 0, or an error number where it cannot be done politely. */
M3_API int m3_awake_run(struct m3_awake *a) {
  struct sched_param none = {0};
  if (sched_setscheduler(0, SCHED_IDLE, &none)) return errno; /* 0: this thread */
  int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  for (double rest = REST_S; !a->ended;) {
    sleep_until_roused(a);
    double begun = now();
    if (!keep(a, fd)) continue;
    double ended = now();
    if (ended - begun > SOON * rest) rest = REST_S;
    a->rested = ended + rest;
    a->given_up++;
    rest = rest * 2 > LONGEST_REST_S ? LONGEST_REST_S : rest * 2;
  }
  close(fd);
  return 0;
}

/* Let the thread look whether there is something to do. */
M3_API void m3_awake_rouse(struct m3_awake *a) {
  __atomic_store_n(&a->asleep, 0, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &a->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

#else
M3_API int m3_awake_run(struct m3_awake *a) { return a->ended ? 0 : ENOSYS; }
M3_API void m3_awake_rouse(struct m3_awake *a) { a->asleep = 0; }
#endif
