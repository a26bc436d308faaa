/* The fragments of one DIMSE message out of P-DATA-TF PDUs, straight to where they stay (PS3.8 9.3.5, annex E.2).

   Whatever is not the fragment that is due is left where it is: Python judges it (pacs/dimse/fragments.py, which does all
   of this, too, and is what this is held against). Lengths are the peer's words: none is used before it was compared with
   what is there, and nothing is allocated. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "native.h"

enum { HEADER = 6, P_DATA_TF = 4, COMMAND = 1, LAST = 2 };

uint32_t m3_abi(void) { return M3_ABI; }

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint32_t be32(const uint8_t *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* How many bytes came, at least one, into the parts one behind the other; or minus an outcome. The kernel itself returns
   now and then (SO_RCVTIMEO), so that the deadline is noticed. */
static int64_t receive(struct m3_wire *w, const struct m3_patience *p, struct iovec *parts, size_t count, int flags) {
  struct msghdr message;
  memset(&message, 0, sizeof message);
  message.msg_iov = parts;
  message.msg_iovlen = count;
  for (double begun = now();;) {
    ssize_t got = w->fd < 0 ? 0 : recvmsg(w->fd, &message, flags);
    int failure = errno;
    double ended = now();
    if (got < 0 && failure != EAGAIN && failure != EWOULDBLOCK && failure != EINTR) return -M3_FAILED;
    if (ended >= w->deadline) return -M3_STALLED;
    if (got < 0) continue;
    if (got == 0) return -M3_CLOSED;
    w->waited += ended - begun;
    w->received += (uint64_t)got;
    if (w->waited >= p->window) {
      if ((double)w->received < w->waited * p->rate) return -M3_STALLED;
      w->waited = 0;
      w->received = 0;
    }
    return got;
  }
}

/* Have at least `count` bytes in the buffer, which is larger than that; `ahead` or the whole buffer at most. */
static int have(struct m3_wire *w, const struct m3_patience *p, uint32_t count, int ahead) {
  while (w->end - w->start < count) {
    if (w->start) {
      memmove(w->buffer, w->buffer + w->start, w->end - w->start);
      w->end -= w->start;
      w->start = 0;
    }
    struct iovec part = {w->buffer + w->end, (ahead ? w->size : count) - w->end};
    int64_t got = receive(w, p, &part, 1, 0);
    if (got < 0) return (int)-got;
    w->end += (uint32_t)got;
  }
  return M3_DONE;
}

/* Begin the next fragment, if it is of this kind and of this context (0: of any). Raises no limit that Python has. */
static int begin(struct m3_wire *w, const struct m3_patience *p, double wait, uint32_t context, uint32_t kind, int ahead) {
  int outcome;
  if (!w->pdu_left) {
    w->deadline = now() + wait;
    if ((outcome = have(w, p, HEADER, ahead)) != M3_DONE) return outcome;
    const uint8_t *at = w->buffer + w->start;
    uint32_t length = be32(at + 2);
    if (at[0] != P_DATA_TF || length < HEADER || length > w->max_pdu) return M3_ODD;
    w->start += HEADER;
    w->pdu_left = length;
    w->deadline = now() + (length / p->rate > p->pdu ? length / p->rate : p->pdu);
  }
  if (w->pdu_left < HEADER) return M3_ODD;
  if ((outcome = have(w, p, HEADER, ahead)) != M3_DONE) return outcome;
  const uint8_t *at = w->buffer + w->start;
  uint32_t length = be32(at);
  if (length < 2 || length > w->pdu_left - 4) return M3_ODD;
  if ((at[5] & COMMAND) != kind || (context && at[4] != context) || at[4] == 0) return M3_ODD;
  w->start += HEADER;
  w->pdu_left -= length + 4;
  w->piece_left = length - 2;
  w->context = at[4];
  w->last = at[5] & LAST;
  return M3_DONE;
}

/* Move what is in the buffer of the fragment under way; how much. */
static size_t take(struct m3_wire *w, uint8_t *out, size_t room) {
  size_t count = w->end - w->start;
  if (count > w->piece_left) count = w->piece_left;
  if (count > room) count = room;
  memcpy(out, w->buffer + w->start, count);
  w->start += (uint32_t)count;
  w->piece_left -= (uint32_t)count;
  return count;
}

/* A whole command set into `out`; where it does not fit, M3_ODD before the fragment that is too much. */
int m3_command(struct m3_wire *w, const struct m3_patience *p, double wait, uint8_t *out, size_t room) {
  int outcome;
  w->filled = 0;
  uint32_t context = 0;
  do {
    if ((outcome = begin(w, p, context ? p->silence : wait, context, COMMAND, 1)) != M3_DONE) return outcome;
    if (!context) { /* only what is waited for within a message counts for the rate */
      w->waited = 0;
      w->received = 0;
    }
    context = w->context;
    while (w->piece_left) {
      if (w->filled == room) return M3_MORE;
      w->filled += take(w, out + w->filled, room - w->filled);
      if (w->piece_left && w->filled < room && (outcome = have(w, p, 1, 1)) != M3_DONE) return outcome;
    }
  } while (!w->last);
  return M3_DONE;
}

/* Fragments of a data set into `out`, until the last one ends or there is no room. Called again, it goes on. */
int m3_dataset(struct m3_wire *w, const struct m3_patience *p, uint32_t context, uint8_t *out, size_t room) {
  int outcome;
  w->filled = 0;
  for (;;) {
    if (!w->piece_left) {
      if (w->last && w->filled) return M3_DONE;
      if ((outcome = begin(w, p, p->silence, context, 0, 0)) != M3_DONE) return outcome;
      if (!w->piece_left && w->last) return M3_DONE;
      continue;
    }
    if (w->filled == room) return M3_MORE;
    w->filled += take(w, out + w->filled, room - w->filled);
    while (w->piece_left && w->filled < room) {
      /* The buffer is empty. What follows the fragment is known to come: its header is taken along. */
      size_t left = room - w->filled < w->piece_left ? room - w->filled : w->piece_left;
      uint32_t header = w->pdu_left ? HEADER : w->last ? 0 : 2 * HEADER;
      struct iovec parts[2] = {{out + w->filled, left}, {w->buffer, header}};
      w->start = w->end = 0;
      int with_header = header && left == w->piece_left && header <= w->size;
      int64_t got = receive(w, p, parts, with_header ? 2 : 1, MSG_WAITALL);
      if (got < 0) return (int)-got;
      size_t data = (size_t)got < left ? (size_t)got : left;
      w->filled += data;
      w->piece_left -= (uint32_t)data;
      w->end = (uint32_t)((size_t)got - data);
    }
  }
}
