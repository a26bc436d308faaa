/* A C-STORE from its first byte to its answer, for instances that join a series as the ones before did.

   The order is that of pacs/ingest.py: the bytes on their way to the disk, the rows in one transaction, the write awaited,
   the transaction committed, success said. What is not exactly like the ones before is handed to Python, with all that
   came of it, at a place where Python can go on. */
#define _GNU_SOURCE
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "native.h"

enum {
  ENOUGH = 128 << 10, /* pacs/dimse/fragments.py: it is still in the caches when it is looked at */
  QUIET_MS = 1000
};

/* Whether the command set is like the last one but for its number and its UID, which is a plain one. */
static int is_like(const struct m3_express *x) {
  const struct m3_wire *w = x->wire;
  uint32_t number = x->number_at, uid = x->uid_at, end = uid + x->uid_room;
  const uint8_t *raw = x->command;
  if (w->context != x->context || w->filled != x->like_size || !x->uid_room || x->uid_room > M3_UID_ROOM) return 0;
  if (memcmp(raw, x->like, number) || memcmp(raw + number + 2, x->like + number + 2, uid - number - 2)) return 0;
  if (memcmp(raw + end, x->like + end, x->like_size - end)) return 0;
  if (raw[end - 1] == ' ' || raw[end - 1] == 0) end--;
  return m3_plain_uid(raw + uid, end - uid);
}

/* The data set into the memory, hashed while it is warm; an m3_outcome. */
static int receive(struct m3_express *x) {
  uint8_t *to = x->memory + M3_RECORD_HEADER + M3_RESERVE;
  struct m3_wire *w = x->wire;
  w->piece_left = w->last = 0;
  w->waited = 0;
  w->received = 0;
  x->hashed = 1;
  m3_hash_begin(&x->hash);
  for (x->size = 0;;) {
    uint64_t room = x->room - x->size < ENOUGH ? x->room - x->size : ENOUGH;
    if (!room) return M3_MORE;
    int outcome = m3_dataset(w, x->patience, x->context, to + x->size, room);
    m3_hash_feed(&x->hash, to + x->size, w->filled);
    x->size += w->filled;
    if (outcome != M3_MORE) return outcome;
  }
}

/* Bytes to the disk and rows to the index; an m3_passage. */
static int file(struct m3_express *x) {
  struct m3_alike *a = x->alike;
  struct m3_joining *j = &a->joining;
  struct m3_told told;
  if (x->strip.at + m3_blocks(x->size) > x->strip.end) return M3_STRIP;
  x->hashed = 0;
  if (!m3_record(a, x->followed, &x->hash, &x->strip, x->memory, x->size, x->packed, &told)) return M3_WITHIN;
  if (m3_write_begin(x->write, x->strip.fd, x->memory, told.blocks, (int64_t)x->strip.at)) return M3_WITHIN;
  x->erase_size = told.blocks;
  m3_tell(a, x->followed, x->packed, &told, j->columns, a->lookup);
  j->at = told.at;
  j->write = x->write;
  j->length = (int64_t)told.blocks;
  x->joined = m3_join(x->joiner, j);
  if (x->joined != M3_JOINED) return M3_WITHIN;
  x->strip.at += told.blocks;
  x->erase_size = 0;
  return M3_STORED;
}

/* C-STORE-RSP with status 0000H; what could not be sent at once is left to Python. */
static void answer(struct m3_express *x) {
  memcpy(x->reply + x->reply_number_at, x->command + x->number_at, 2);
  uint8_t *uid = x->reply + x->reply_uid_at;
  memcpy(uid, x->command + x->uid_at, x->uid_room);
  if (uid[x->uid_room - 1] == ' ') uid[x->uid_room - 1] = 0;
  ssize_t sent = send(x->wire->fd, x->reply, x->reply_size, MSG_NOSIGNAL);
  x->unsent = sent < 0 ? x->reply_size : x->reply_size - (uint32_t)sent;
}

/* What Python cannot know: the lengths of structures that it makes, and where it stops to know them. */
void m3_sizes(uint64_t out[6]) {
  out[0] = sizeof(struct m3_followed);
  out[1] = sizeof(struct m3_alike);
  out[2] = sizeof(struct m3_express);
  out[3] = offsetof(struct m3_express, hash);
  out[4] = sizeof(struct m3_inflow);
  out[5] = offsetof(struct m3_inflow, hash);
}

/* Whether the data set is like the ones before, and that of the SOP instance that its command set names. */
static int is_followed(struct m3_express *x) {
  const uint8_t *data = x->memory + M3_RECORD_HEADER + M3_RESERVE, *uid = x->command + x->uid_at;
  const struct m3_followed *f = x->followed;
  if (!m3_follow(x->alike->pattern, data, x->size, x->followed)) return 0;
  if (x->uid_room - f->uid_size > 1 || memcmp(uid, f->uid, f->uid_size)) return 0;
  return x->uid_room == f->uid_size || uid[f->uid_size] == ' ' || uid[f->uid_size] == 0;
}

/* One instance, if within `wait_ms` the next message begins and is one like those before; an m3_passage. */
static int one(struct m3_express *x, int wait_ms) {
  struct m3_wire *w = x->wire;
  uint32_t stage = x->stage;
  x->stage = x->unsent = 0;
  x->erase_size = 0;
  if (!stage) {
    if (w->start == w->end) {
      struct pollfd there = {.fd = w->fd, .events = POLLIN};
      if (poll(&there, 1, wait_ms) == 0) return M3_NOTHING;
    }
    x->busy = 1;
    w->context = w->last = w->piece_left = 0;
    x->outcome = m3_command(w, x->patience, x->patience->silence, x->command, x->command_room);
    if (x->outcome != M3_DONE || !is_like(x)) return M3_BEFORE;
    x->outcome = receive(x);
    if (x->outcome != M3_DONE) return M3_WITHIN;
  }
  if (stage != M3_TO_FILE && !is_followed(x)) return M3_WITHIN;
  int passage = file(x);
  if (passage == M3_STRIP) x->stage = M3_TO_FILE;
  if (passage == M3_STORED) {
    x->stored++;
    answer(x);
    x->busy = 0;
  }
  return passage;
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* One instance, and those that follow without a pause: each return is a wait for the interpreter. */
int m3_express(struct m3_express *x) {
  int passage = one(x, QUIET_MS);
  for (double until = 0; passage == M3_STORED && !x->unsent && x->spell_ms;) {
    double now = now_ms();
    if (!until) until = now + x->spell_ms;
    if (now >= until) break;
    passage = one(x, (int)x->pause_ms);
    if (passage == M3_NOTHING) return M3_STORED;
  }
  return passage;
}
