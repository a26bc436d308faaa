/* A record of the object store and the rows of the index for an instance that is like the ones before it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "native.h"

enum { BLOCK = 4096, REDO = 1 };

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

/* Preamble, File Meta and arrival facts (pacs/storage/arrival.py); the time of arrival, or -1 where they do not fit. */
static double put_head(const struct m3_alike *a, uint8_t *head, const uint8_t *uid, uint32_t uid_size) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  uint64_t us = (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
  uint32_t padded = uid_size + (uid_size & 1);
  uint64_t used = (uint64_t)a->before_size + 8 + padded + a->behind_size + 12;
  char time[32];
  int time_size = snprintf(time, sizeof time, "%llu.%06llu}", (unsigned long long)(us / 1000000u), (unsigned long long)(us % 1000000u));
  if (used + a->facts_size + (uint32_t)time_size > M3_RESERVE) return -1;
  uint32_t left = M3_RESERVE - (uint32_t)used;
  uint8_t *at = put_bytes(head, a->before, a->before_size);
  const uint8_t media[6] = {2, 0, 3, 0, 'U', 'I'}, facts[8] = {2, 0, 2, 1, 'O', 'B', 0, 0};
  at = put_bytes(at, media, 6);
  *at++ = (uint8_t)padded;
  *at++ = 0;
  at = put_bytes(at, uid, uid_size);
  if (uid_size & 1) *at++ = 0;
  at = put_bytes(at, a->behind, a->behind_size);
  at = put32(put_bytes(at, facts, 8), left);
  at = put_bytes(put_bytes(at, a->facts, a->facts_size), time, (size_t)time_size);
  memset(at, ' ', left - a->facts_size - (uint32_t)time_size);
  return (double)us / 1e6; /* the very number that the text reads as: a division is rounded once */
}

/* The record's header (pacs/storage/records.py). */
static void put_header(const struct m3_strip *strip, uint8_t *header, uint64_t length, const uint8_t digest[32]) {
  const uint8_t alive[8] = {'m', '3', 'D', 'r', 'e', 'c', 0, 1};
  uint8_t *body = put_bytes(header, alive, 8), *at = put_bytes(body, strip->nonce, 16);
  at = put64(put64(at, strip->at), length);
  at = put32(put32(put32(at, M3_RESERVE), crc32(header + M3_RECORD_HEADER, M3_RESERVE)), strip->redo ? REDO : 0);
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


/* Whether a UID is written as usual: digits, and single dots between them. */
int m3_plain_uid(const uint8_t *uid, size_t size) {
  int dots = 0;
  uint8_t before = '.';
  if (!size || size > M3_UID_ROOM) return 0;
  for (const uint8_t *c = uid; c < uid + size; before = *c++) {
    if (*c == '.' ? before == '.' : *c < '0' || *c > '9') return 0;
    dots += *c == '.';
  }
  return dots && before != '.';
}

/* Head and header into the memory, around the data set of that size which is there and was hashed; 1, or 0 where
   something does not fit. */
int m3_record(const struct m3_alike *a, const struct m3_followed *f, struct m3_hash *hash, const struct m3_strip *strip,
              uint8_t *memory, uint64_t size, uint8_t *packed, struct m3_told *told) {
  uint8_t *head = memory + M3_RECORD_HEADER, digest[32], content[32];
  pthread_once(&crc_made, make_crc);
  told->at = put_head(a, head, f->uid, f->uid_size);
  told->packed = (uint32_t)m3_pack(f->json, f->json_size, packed, M3_PACKED_ROOM);
  int bulk_size = snprintf(told->bulk, sizeof told->bulk, "%.*s%u%.*s", (int)a->bulk_before_size, (const char *)a->bulk_before,
                           f->place, (int)a->bulk_behind_size, (const char *)a->bulk_behind);
  if (told->at < 0 || !told->packed || bulk_size < 0 || (size_t)bulk_size >= sizeof told->bulk) return 0;
  told->bulk_size = (uint32_t)bulk_size;
  told->key = strip->name;
  told->offset = strip->at + M3_RECORD_HEADER;
  told->length = M3_RESERVE + size;
  told->blocks = m3_blocks(size);
  m3_hash_end(hash, digest);
  m3_hash_feed(hash, a->suffix, a->suffix_size);
  m3_hash_end(hash, content);
  put_header(strip, memory, told->length, digest);
  memset(head + told->length, 0, told->blocks - M3_RECORD_HEADER - told->length);
  for (int i = 0; i < 32; i++) {
    told->hex[2 * i] = "0123456789abcdef"[content[i] >> 4];
    told->hex[2 * i + 1] = "0123456789abcdef"[content[i] & 15];
  }
  memcpy(told->frames, a->frames_like, sizeof told->frames);
  if (a->frames_size) put64(told->frames + a->frames_at, f->place);
  return 1;
}

/* How long a record is whose data set has that size, in whole blocks. */
uint64_t m3_blocks(uint64_t size) { return (M3_RECORD_HEADER + M3_RESERVE + size + BLOCK - 1) / BLOCK * BLOCK; }

/* What differs from one instance to the next into the parameters of the insert and of the look-up. They refer to all that
   is given here. */
void m3_tell(const struct m3_alike *a, const struct m3_followed *f, const uint8_t *packed, const struct m3_told *told,
             struct m3_value *columns, struct m3_value *lookup) {
  struct m3_value uid = text(f->uid, f->uid_size);
  for (int i = 0; i < 4; i++)
    if (a->lookup_uids[i] != UINT32_MAX) lookup[a->lookup_uids[i]] = uid;
  for (int i = 0; i < 3; i++) {
    columns[a->uids[i]] = uid;
    columns[a->times[i]] = real(told->at);
  }
  for (uint32_t i = 0; i < a->pattern->step_count; i++)
    if (a->pattern->steps[i].fold != M3_NO_COLUMN) columns[a->pattern->steps[i].column] = f->steps[i].folded;
  columns[a->row] = blob(f->row, f->row_size);
  columns[a->digest] = text(told->hex, sizeof told->hex);
  columns[a->key] = told->key;
  columns[a->offset] = whole((int64_t)told->offset);
  columns[a->length] = whole((int64_t)told->length);
  columns[a->json] = blob(packed, told->packed);
  columns[a->bulk] = blob(told->bulk, told->bulk_size);
  if (a->frames_size) columns[a->frames] = blob(told->frames, a->frames_size);
}
