/* A C-STORE from its first byte to its answer, for instances that join a series as the ones before did.

   The order is that of pacs/ingest.py: the bytes on their way to the disk, the rows in one transaction, the write awaited,
   the transaction committed, success said. What is not exactly like the ones before is handed to Python, with all that
   came of it, at a place where Python can go on. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "native.h"

enum {
  BLOCK = 4096,
  RECORD_HEADER = 88, /* pacs/storage/records.py */
  RESERVE = 1024,     /* pacs/storage/arrival.py */
  REDO = 1,
  ENOUGH = 128 << 10, /* pacs/dimse/fragments.py: it is still in the caches when it is looked at */
  QUIET_MS = 1000,
  UID_ROOM = 64
};

static uint32_t crc_table[8][256];
static pthread_once_t crc_made = PTHREAD_ONCE_INIT;

static void make_crc(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; bit++) c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
    crc_table[0][i] = c;
  }
  for (uint32_t i = 0; i < 256; i++)
    for (int n = 1; n < 8; n++) crc_table[n][i] = crc_table[0][crc_table[n - 1][i] & 255] ^ crc_table[n - 1][i] >> 8;
}

static uint32_t le32(const uint8_t *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint8_t *put32(uint8_t *at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> 8 * i);
  return at + 4;
}

static uint8_t *put64(uint8_t *at, uint64_t value) { return put32(put32(at, (uint32_t)value), (uint32_t)(value >> 32)); }

static uint8_t *put_bytes(uint8_t *at, const void *from, size_t size) {
  memcpy(at, from, size);
  return at + size;
}

/* CRC-32 of zlib, eight bytes at a time. */
static uint32_t crc32(const uint8_t *at, size_t size) {
  uint32_t c = 0xFFFFFFFFu;
  for (; size >= 8; at += 8, size -= 8) {
    uint32_t low = le32(at) ^ c, high = le32(at + 4);
    c = crc_table[7][low & 255] ^ crc_table[6][low >> 8 & 255] ^ crc_table[5][low >> 16 & 255] ^ crc_table[4][low >> 24] ^
        crc_table[3][high & 255] ^ crc_table[2][high >> 8 & 255] ^ crc_table[1][high >> 16 & 255] ^ crc_table[0][high >> 24];
  }
  for (; size; at++, size--) c = crc_table[0][(c ^ *at) & 255] ^ c >> 8;
  return ~c;
}

/* Whether the command set is like the last one but for its number and its UID, which is a plain one. */
static int is_like(const struct m3_express *x) {
  const struct m3_wire *w = x->wire;
  uint32_t number = x->number_at, uid = x->uid_at, end = uid + x->uid_room;
  const uint8_t *raw = x->command;
  if (w->context != x->context || w->filled != x->like_size || x->uid_room > UID_ROOM) return 0;
  if (memcmp(raw, x->like, number) || memcmp(raw + number + 2, x->like + number + 2, uid - number - 2)) return 0;
  if (memcmp(raw + end, x->like + end, x->like_size - end)) return 0;
  int dots = 0;
  uint8_t before = '.';
  if (raw[end - 1] == ' ' || raw[end - 1] == 0) end--;
  if (end == uid) return 0;
  for (const uint8_t *c = raw + uid; c < raw + end; before = *c++) {
    if (*c == '.' ? before == '.' : *c < '0' || *c > '9') return 0;
    dots += *c == '.';
  }
  return dots && before != '.';
}

/* The data set into the memory, hashed while it is warm; an m3_outcome. */
static int receive(struct m3_express *x) {
  uint8_t *to = x->memory + RECORD_HEADER + RESERVE;
  struct m3_wire *w = x->wire;
  w->piece_left = w->last = 0;
  w->waited = 0;
  w->received = 0;
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

/* Preamble, File Meta and arrival facts (pacs/storage/arrival.py); the time of arrival, or -1 where they do not fit. */
static double put_head(const struct m3_express *x, uint8_t *head, const uint8_t *uid, uint32_t uid_size) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  uint64_t us = (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
  uint32_t padded = uid_size + (uid_size & 1);
  uint64_t used = (uint64_t)x->before_size + 8 + padded + x->behind_size + 12;
  char time[32];
  int time_size = snprintf(time, sizeof time, "%llu.%06llu}", (unsigned long long)(us / 1000000u), (unsigned long long)(us % 1000000u));
  if (used + x->facts_size + (uint32_t)time_size > RESERVE) return -1;
  uint32_t left = RESERVE - (uint32_t)used;
  uint8_t *at = put_bytes(head, x->before, x->before_size);
  const uint8_t media[6] = {2, 0, 3, 0, 'U', 'I'}, facts[8] = {2, 0, 2, 1, 'O', 'B', 0, 0};
  at = put_bytes(at, media, 6);
  *at++ = (uint8_t)padded;
  *at++ = 0;
  at = put_bytes(at, uid, uid_size);
  if (uid_size & 1) *at++ = 0;
  at = put_bytes(at, x->behind, x->behind_size);
  at = put32(put_bytes(at, facts, 8), left);
  at = put_bytes(put_bytes(at, x->facts, x->facts_size), time, (size_t)time_size);
  memset(at, ' ', left - x->facts_size - (uint32_t)time_size);
  return (double)us / 1e6; /* the very number that the text reads as: a division is rounded once */
}

/* The record's header (pacs/storage/records.py). */
static void put_header(const struct m3_express *x, uint8_t *header, uint64_t length, const uint8_t digest[32]) {
  const uint8_t alive[8] = {'m', '3', 'D', 'r', 'e', 'c', 0, 1};
  uint8_t *body = put_bytes(header, alive, 8), *at = put_bytes(body, x->nonce, 16);
  at = put64(put64(at, x->strip), length);
  at = put32(put32(put32(at, RESERVE), crc32(header + RECORD_HEADER, RESERVE)), REDO);
  at = put_bytes(at, digest, 32);
  put32(at, crc32(body, (size_t)(at - body)));
}

static struct m3_value text(const void *bytes, size_t size) {
  return (struct m3_value){.kind = M3_TEXT, .size = (uint32_t)size, .bytes = bytes};
}

static struct m3_value blob(const void *bytes, size_t size) {
  return (struct m3_value){.kind = M3_BLOB, .size = (uint32_t)size, .bytes = bytes};
}

static struct m3_value whole(int64_t number) { return (struct m3_value){.kind = M3_INTEGER, .integer = number}; }

static struct m3_value real(double number) { return (struct m3_value){.kind = M3_REAL, .real = number}; }

/* Bytes to the disk and rows to the index; an m3_passage. */
static int file(struct m3_express *x) {
  struct m3_followed *f = x->followed;
  uint8_t *record = x->memory, *head = record + RECORD_HEADER;
  uint64_t length = RESERVE + x->size, blocks = (RECORD_HEADER + length + BLOCK - 1) / BLOCK * BLOCK;
  if (x->strip + blocks > x->strip_end) return M3_STRIP;

  uint8_t digest[32], content[32];
  char hex[64], bulk[256];
  double at = put_head(x, head, f->uid, f->uid_size);
  size_t packed = m3_pack(f->json, f->json_size, x->packed, M3_PACKED_ROOM);
  int bulk_size = snprintf(bulk, sizeof bulk, "%.*s%u%.*s", (int)x->bulk_before_size, (const char *)x->bulk_before, f->place,
                           (int)x->bulk_behind_size, (const char *)x->bulk_behind);
  if (at < 0 || !packed || bulk_size < 0 || (size_t)bulk_size >= sizeof bulk) return M3_WITHIN;
  m3_hash_end(&x->hash, digest);
  m3_hash_feed(&x->hash, x->suffix, x->suffix_size);
  m3_hash_end(&x->hash, content);
  put_header(x, record, length, digest);
  memset(record + RECORD_HEADER + length, 0, blocks - RECORD_HEADER - length);
  if (m3_write_begin(x->write, x->fd, record, blocks, (int64_t)x->strip)) return M3_WITHIN;
  x->erase_size = blocks;

  for (int i = 0; i < 32; i++) {
    hex[2 * i] = "0123456789abcdef"[content[i] >> 4];
    hex[2 * i + 1] = "0123456789abcdef"[content[i] & 15];
  }
  uint8_t frames[32];
  memcpy(frames, x->frames_like, sizeof frames);
  if (x->frames_size) put64(frames + x->frames_at, f->place);
  struct m3_joining *j = &x->joining;
  struct m3_value *c = j->columns, uid = text(f->uid, f->uid_size);
  for (int i = 0; i < 4; i++)
    if (x->lookup_uids[i] != UINT32_MAX) x->lookup[x->lookup_uids[i]] = uid;
  for (int i = 0; i < 3; i++) {
    c[x->uids[i]] = uid;
    c[x->times[i]] = real(at);
  }
  for (uint32_t i = 0; i < x->pattern->step_count; i++)
    if (x->pattern->steps[i].fold != M3_NO_COLUMN) c[x->pattern->steps[i].column] = f->steps[i].folded;
  c[x->row] = blob(f->row, f->row_size);
  c[x->digest] = text(hex, sizeof hex);
  c[x->offset] = whole((int64_t)(x->strip + RECORD_HEADER));
  c[x->length] = whole((int64_t)length);
  c[x->json] = blob(x->packed, packed);
  c[x->bulk] = blob(bulk, (size_t)bulk_size);
  if (x->frames_size) c[x->frames] = blob(frames, x->frames_size);
  j->at = at;
  j->write = x->write;
  j->length = (int64_t)blocks;
  x->joined = m3_join(x->joiner, j);
  if (x->joined != M3_JOINED) return M3_WITHIN;
  x->strip += blocks;
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

/* What Python cannot know: the lengths of the two structures of which it makes one each, and where it stops to know. */
void m3_sizes(uint64_t out[3]) {
  out[0] = sizeof(struct m3_express);
  out[1] = sizeof(struct m3_followed);
  out[2] = offsetof(struct m3_express, hash);
}

/* One instance, if the next message is one like those before; an m3_passage. */
int m3_express(struct m3_express *x) {
  struct m3_wire *w = x->wire;
  pthread_once(&crc_made, make_crc);
  x->unsent = 0;
  x->erase_size = 0;
  if (!x->stage) {
    if (w->start == w->end) {
      struct pollfd there = {.fd = w->fd, .events = POLLIN};
      if (poll(&there, 1, QUIET_MS) == 0) return M3_NOTHING;
    }
    x->busy = 1;
    w->context = w->last = w->piece_left = 0;
    x->outcome = m3_command(w, x->patience, x->patience->silence, x->command, x->command_room);
    if (x->outcome != M3_DONE || !is_like(x)) return M3_BEFORE;
    x->outcome = receive(x);
    if (x->outcome != M3_DONE) return M3_WITHIN;
    const uint8_t *data = x->memory + RECORD_HEADER + RESERVE, *uid = x->command + x->uid_at;
    struct m3_followed *f = x->followed;
    if (!m3_follow(x->pattern, data, x->size, f)) return M3_WITHIN;
    if (x->uid_room - f->uid_size > 1 || memcmp(uid, f->uid, f->uid_size)) return M3_WITHIN;
    if (x->uid_room > f->uid_size && uid[f->uid_size] != ' ' && uid[f->uid_size] != 0) return M3_WITHIN;
  }
  x->stage = 0;
  int passage = file(x);
  if (passage == M3_STRIP) x->stage = 1;
  if (passage == M3_STORED) {
    x->stored++;
    answer(x);
    x->busy = 0;
  }
  return passage;
}
