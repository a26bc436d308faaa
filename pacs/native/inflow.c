/* Instances that come as the parts of one body, each like the ones before it, from the connection to the disk.

   None of them is seen by anybody yet: they join their series together (m3_join_taken) when the body has ended as it
   should. What is not exactly like the ones before is left to Python, with all that came of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "native.h"

enum { ENOUGH = 128 << 10, AHEAD = 16 << 10, PREAMBLE = 128, GROUP_LENGTH = PREAMBLE + 4 + 8 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint8_t *dataset(const struct m3_inflow *x) { return x->memory[x->slot] + M3_RECORD_HEADER + M3_RESERVE; }

/* Some bytes of the body: how many, or 0 where none came in time (M3_QUIET) or will come (M3_LEFT), as `why` says. */
static size_t receive(struct m3_inflow *x, uint8_t *to, size_t room, int *why) {
  for (int waited = 0;;) {
    ssize_t count = recv(x->fd, to, room < x->left ? room : x->left, MSG_DONTWAIT);
    if (count > 0) {
      x->left -= (uint64_t)count;
      x->came += (uint64_t)count;
      return (size_t)count;
    }
    *why = M3_LEFT;
    if (!count || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) return 0;
    *why = M3_QUIET;
    if (waited++) return 0;
    struct pollfd there = {.fd = x->fd, .events = POLLIN};
    double since = now();
    poll(&there, 1, (int)x->patience_ms);
    x->waited += now() - since;
  }
}

/* Have `size` bytes in the staging, or all that are left of the body; 0, or why not. */
static int staged(struct m3_inflow *x, size_t size, int *why) {
  while (x->end - x->start < size && x->left) {
    if (x->start) {
      memmove(x->staging, x->staging + x->start, x->end - x->start);
      x->end -= x->start;
      x->start = 0;
    }
    size_t room = x->staging_room - x->end, ahead = size > AHEAD ? size : AHEAD; /* what is pixel data is better received in its place */
    size_t count = receive(x, x->staging + x->end, room < ahead ? room : ahead, why);
    if (!count) return 0;
    x->end += (uint32_t)count;
  }
  return 1;
}

static uint32_t le32(const uint8_t *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* The length of preamble and File Meta in the staging if they are like those before but for the SOP Instance UID, else 0. */
static uint32_t meta_like(const struct m3_inflow *x) {
  const uint8_t *like = x->meta, *came = x->staging + x->start;
  uint32_t have = x->end - x->start, uid = x->uid_at;
  if (have < uid || memcmp(came + PREAMBLE, like + PREAMBLE, GROUP_LENGTH - PREAMBLE)) return 0; /* what a preamble holds is of no matter */
  if (memcmp(came + GROUP_LENGTH + 4, like + GROUP_LENGTH + 4, uid - 2 - GROUP_LENGTH - 4)) return 0;
  uint32_t length = (uint32_t)came[uid - 2] | (uint32_t)came[uid - 1] << 8, behind = x->meta_size - uid - x->uid_size;
  uint32_t whole = uid + length + behind;
  if (length > M3_UID_ROOM || length & 1 || whole > have || whole > M3_META_ROOM) return 0;
  if (le32(came + GROUP_LENGTH) != whole - GROUP_LENGTH - 4) return 0;
  return memcmp(came + uid + length, like + uid + x->uid_size, behind) ? 0 : whole;
}

/* Whether the instance in the staging, behind `meta` bytes, is like the ones before as far as its pixel data. */
static int followed(struct m3_inflow *x, uint32_t meta) {
  struct m3_followed *f = x->followed;
  const uint8_t *came = x->staging + x->start, *uid = came + x->uid_at;
  uint32_t room = (uint32_t)came[x->uid_at - 2] | (uint32_t)came[x->uid_at - 1] << 8;
  if (!m3_follow_head(x->alike->pattern, came + meta, x->end - x->start - meta, f)) return 0;
  if (!m3_plain_uid(f->uid, f->uid_size) || room < f->uid_size || memcmp(uid, f->uid, f->uid_size)) return 0;
  for (uint32_t at = f->uid_size; at < room; at++)
    if (uid[at] && uid[at] != ' ') return 0;
  return 1;
}

/* ---- what was taken ---- */

static uint8_t *put(uint8_t **to, const void *from, size_t size) {
  uint8_t *put = *to;
  memcpy(put, from, size);
  *to += size;
  return put;
}

/* How much of one instance is kept until it joins, at most. */
static uint64_t kept_room(const struct m3_inflow *x, uint32_t packed) {
  const struct m3_alike *a = x->alike;
  return sizeof(struct m3_taken) + (16 + (uint64_t)a->pattern->step_count) * (sizeof(struct m3_set) + 24) + packed +
         x->followed->row_size + M3_UID_ROOM + 64 + 256 + 32 + 8;
}

/* Keep what differs of an instance: m3_tell says it of one's own columns, and those that it has set are copied. */
static struct m3_taken *keep(struct m3_inflow *x, const struct m3_told *told) {
  const struct m3_alike *a = x->alike;
  const struct m3_followed *f = x->followed;
  const struct m3_pattern *p = a->pattern;
  struct m3_taken *t = (struct m3_taken *)(void *)x->taken;
  struct m3_set *sets = t->values;
  uint32_t folds = 0, n = 0;
  for (uint32_t i = 0; i < p->step_count; i++) folds += p->steps[i].fold != M3_NO_COLUMN;
  uint8_t *bytes = (uint8_t *)(sets + 6 + 8 + folds);
  struct m3_value uid = {.kind = M3_TEXT, .size = f->uid_size, .bytes = put(&bytes, f->uid, f->uid_size)};
  for (int i = 0; i < 3; i++) sets[n++] = (struct m3_set){a->uids[i], uid};
  for (int i = 0; i < 3; i++) sets[n++] = (struct m3_set){a->times[i], {.kind = M3_REAL, .real = told->at}};
  for (uint32_t i = 0; i < p->step_count; i++) {
    if (p->steps[i].fold == M3_NO_COLUMN) continue;
    struct m3_value value = f->steps[i].folded;
    if (value.kind == M3_TEXT || value.kind == M3_BLOB) value.bytes = put(&bytes, value.bytes, value.size);
    sets[n++] = (struct m3_set){p->steps[i].column, value};
  }
#define KEPT(column, of, from, length) \
  sets[n++] = (struct m3_set){a->column, {.kind = of, .size = (uint32_t)(length), .bytes = put(&bytes, from, length)}}
  KEPT(row, M3_BLOB, f->row, f->row_size);
  KEPT(digest, M3_TEXT, told->hex, sizeof told->hex);
  KEPT(json, M3_BLOB, x->packed, told->packed);
  KEPT(bulk, M3_BLOB, told->bulk, told->bulk_size);
  if (a->frames_size) KEPT(frames, M3_BLOB, told->frames, a->frames_size);
  sets[n++] = (struct m3_set){a->key, told->key};
  sets[n++] = (struct m3_set){a->offset, {.kind = M3_INTEGER, .integer = (int64_t)told->offset}};
  sets[n++] = (struct m3_set){a->length, {.kind = M3_INTEGER, .integer = (int64_t)told->length}};
  *t = (struct m3_taken){.size = (uint32_t)((bytes - x->taken + 7) & ~7), .value_count = n, .uid = uid, .at = told->at,
                         .key = told->key, .offset = told->offset, .length = told->length, .blocks = told->blocks};
  x->taken += t->size;
  x->taken_room -= t->size;
  x->count++;
  return t;
}

/* Wait for the write out of a slot's memory, if one goes on. */
static void land(struct m3_inflow *x, uint32_t slot) {
  struct m3_taken *of = x->under_way[slot];
  if (of) of->wrote = m3_write_end(x->write[slot]);
  x->under_way[slot] = NULL;
}

void m3_inflow_land(struct m3_inflow *x) {
  for (uint32_t slot = 0; slot < M3_SLOTS; slot++) land(x, slot);
}

/* The instance in the memory on its way to the disk; -1, or the m3_flow that says why not. */
static int store(struct m3_inflow *x) {
  struct m3_told told;
  uint64_t blocks = m3_blocks(x->size);
  if (x->strip.at + blocks > x->strip.end) return M3_ROOM;
  if (x->taken_room < kept_room(x, M3_PACKED_ROOM)) return M3_FULL;
  uint8_t *memory = x->memory[x->slot];
  if (!m3_record(x->alike, x->followed, &x->hash, &x->strip, memory, x->size, x->packed, &told)) return M3_UNLIKE;
  if (m3_write_begin(x->write[x->slot], x->strip.fd, memory, blocks, (int64_t)x->strip.at)) return M3_UNLIKE;
  x->strip.at += blocks;
  x->under_way[x->slot] = keep(x, &told);
  x->slot = (x->slot + 1) % M3_SLOTS;
  return -1;
}

/* ---- the body ---- */

/* Whether the delimiter is not in the data set, of which the bytes from `since` on are new: nothing within a part may be
   like it (RFC 2046 5.1.1), and whoever looks for it finds the end of the part there. */
static int undivided(const struct m3_inflow *x, uint64_t since) {
  uint64_t overlap = x->delimiter_size - 1, from = since > overlap ? since - overlap : 0;
  return m3_find(dataset(x) + from, x->size - from, x->delimiter, x->delimiter_size) < 0;
}

/* The beginning of a part; -1, or an m3_flow. */
static int content(struct m3_inflow *x) {
  int why;
  if (!staged(x, x->meta_size + M3_UID_ROOM + x->alike->pattern->reach, &why)) return why;
  uint32_t meta = meta_like(x);
  if (!meta || !followed(x, meta)) return M3_OTHER;
  x->total = (uint64_t)x->followed->place + x->alike->pattern->pixels;
  if (x->total > x->room) return M3_OTHER;
  uint64_t here = x->end - x->start - meta;
  x->size = here < x->total ? here : x->total;
  /* also in a preamble, and from there to the data set */
  if (m3_find(x->staging + x->start, meta + x->size, x->delimiter, x->delimiter_size) >= 0) return M3_OTHER;
  land(x, x->slot);
  memcpy(x->meta_now, x->staging + x->start, x->meta_now_size = meta);
  x->start += meta;
  m3_hash_begin(&x->hash);
  m3_hash_copy(&x->hash, dataset(x), x->staging + x->start, x->size);
  /* its bytes move on, its UID with them */
  x->followed->uid = dataset(x) + (x->followed->uid - (x->staging + x->start));
  x->start += (uint32_t)x->size;
  x->stage = M3_AT_DATA;
  return -1;
}

/* The rest of the pixel data; -1, or an m3_flow. */
static int data(struct m3_inflow *x) {
  while (x->size < x->total) {
    uint64_t room = x->total - x->size;
    int why;
    if (!x->left) return M3_UNLIKE;
    size_t count = receive(x, dataset(x) + x->size, room < ENOUGH ? room : ENOUGH, &why);
    if (!count) return why;
    m3_hash_feed(&x->hash, dataset(x) + x->size, count);
    x->size += count;
    if (!undivided(x, x->size - count)) return M3_UNLIKE;
  }
  x->stage = M3_AT_END;
  return -1;
}

/* What ends a part; -1, or an m3_flow. */
static int end(struct m3_inflow *x) {
  int why;
  if (!staged(x, x->delimiter_size, &why)) return why;
  if (x->end - x->start < x->delimiter_size || memcmp(x->staging + x->start, x->delimiter, x->delimiter_size)) return M3_UNLIKE;
  int stopped = store(x);
  if (stopped >= 0) return stopped;
  x->start += x->delimiter_size;
  x->stage = M3_AT_HEAD;
  return -1;
}

/* The head of the next part; -1, or an m3_flow. */
static int head(struct m3_inflow *x) {
  int why;
  uint32_t boundary = x->delimiter_size - 2; /* the delimiter behind its line end */
  if (!staged(x, x->head_size + boundary, &why)) return why;
  if (x->end - x->start < x->head_size + boundary || memcmp(x->staging + x->start, x->head, x->head_size)) return M3_NEXT;
  /* a part may be a header alone, whose blank line belongs to the next delimiter */
  if (!memcmp(x->staging + x->start + x->head_size, x->delimiter + 2, boundary)) return M3_NEXT;
  x->start += x->head_size;
  x->stage = M3_AT_CONTENT;
  return x->came >= x->most || now() >= x->until ? M3_TURN : -1;
}

/* Parts, until something else is to be done; an m3_flow. */
int m3_inflow(struct m3_inflow *x) {
  static int (*const stages[])(struct m3_inflow *) = {content, data, end, head};
  int stopped = -1;
  x->came = 0;
  x->waited = 0;
  while (stopped < 0) stopped = stages[x->stage](x);
  return stopped;
}

/* One that was taken as what is to join; `values` is room for its parameters. */
static struct m3_joining joining_of(const struct m3_alike *a, const struct m3_taken *t, struct m3_value *values) {
  struct m3_joining made = a->joining;
  made.columns = memcpy(values, made.columns, made.column_count * sizeof *values);
  made.lookup = memcpy(values + made.column_count, made.lookup, made.lookup_count * sizeof *values);
  for (uint32_t i = 0; i < t->value_count; i++)
    if (t->values[i].column < made.column_count) values[t->values[i].column] = t->values[i].value;
  for (int i = 0; i < 4; i++)
    if (a->lookup_uids[i] < made.lookup_count) values[made.column_count + a->lookup_uids[i]] = t->uid;
  made.at = t->at;
  made.write = 0;
  return made;
}

int m3_join_taken(uint64_t joiner, const struct m3_alike *a, const uint8_t *taken, uint32_t count, uint8_t *outcomes) {
  size_t each = a->joining.column_count + a->joining.lookup_count;
  struct m3_joining *all = calloc(count, sizeof *all);
  struct m3_value *values = calloc(count, each * sizeof *values);
  uint8_t *became = calloc(count, 1);
  int ended = all && values && became ? 0 : -ENOMEM;
  if (!ended) {
    uint32_t sound = 0;
    for (uint32_t n = 0; n < count; n++) {
      const struct m3_taken *t = (const struct m3_taken *)(const void *)taken;
      outcomes[n] = t->wrote == (int64_t)t->blocks ? M3_JOINED : M3_UNWRITTEN;
      if (outcomes[n] == M3_JOINED) all[sound] = joining_of(a, t, values + sound * each), sound++;
      taken += t->size;
    }
    ended = m3_join_all(joiner, all, sound, became);
    for (uint32_t n = 0, joined = 0; n < count; n++)
      if (outcomes[n] == M3_JOINED) outcomes[n] = became[joined++];
  }
  free(all), free(values), free(became);
  return ended;
}
