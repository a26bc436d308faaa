/* Data sets for m3_follow, whole C-STOREs for m3_express and bodies for m3_inflow: sound, nearly sound, spoilt (native_driver.c).

   A data set follows a pattern that was made by chance, too. What is stored goes to a file, and to an index that answers as
   it likes. */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "native_driver.h"

/* ---- data sets that follow a pattern, or nearly ---- */

enum { MOST = 9, RUN = 40, BEFORE = M3_RECORD_HEADER + M3_RESERVE, BLOCK = 4096, COMMAND_ROOM = 2048, COLUMNS = MOST + 20 };
static const char *const letters[] = {"AB_ 1.\\", "ab ~\"\\\x1b", "ab \r\"\\\xe4", "0123 +-\\x", "0012.5+-e\\ "};
uint64_t followed, stored, flowed, odd;

struct made {
  struct m3_pattern pattern;
  struct m3_step *steps;
  struct m3_piece *pieces;
  uint32_t plain; /* all values are such as are followed */
};

static const uint8_t *bytes(uint32_t size, int lettered) {
  uint8_t *out = memory(size);
  for (uint32_t at = 0; at < size; at++) out[at] = lettered ? (uint8_t)('a' + any(26)) : (uint8_t)any(256);
  return out;
}

static struct made make_pattern(void) {
  struct made m = {.plain = !any(3)};
  struct m3_pattern *p = &m.pattern;
  p->step_count = 1 + any(MOST - 1);
  p->explicit_vr = any(2);
  p->uid_step = any(p->step_count);
  p->pixels = any(any(4) ? 200 : 20000);
  p->run_size = any(RUN);
  p->text_size = any(any(20) ? RUN : 30000);
  p->run = bytes(p->run_size, 0);
  p->text = bytes(p->text_size, 1);
  p->reach = 4000 + any(1000);
  m.steps = (struct m3_step *)memory(p->step_count * sizeof *m.steps);
  p->piece_count = 1 + any(6);
  m.pieces = (struct m3_piece *)memory(p->piece_count * sizeof *m.pieces);
  memset(m.steps, 0, p->step_count * sizeof *m.steps);
  for (uint32_t at = 0; at < p->step_count; at++) {
    struct m3_step *step = &m.steps[at];
    step->run_size = any(RUN);
    step->text_size = any(any(20) ? RUN : 20000);
    step->run = bytes(step->run_size, 0);
    step->text = bytes(step->text_size, 1);
    step->limit = any(10) ? 64 : 3000;
    step->reader = at == p->uid_step ? M3_CODES : (uint8_t)any(M3_SL + 1);
    step->column = at;
    if (step->reader == M3_INTEGERS || step->reader == M3_US) step->fold = any(2) ? M3_INTEGER_COLUMN : M3_NO_COLUMN;
    if (step->reader == M3_CODES && at != p->uid_step) step->fold = (uint8_t)(any(2) ? M3_DATE_COLUMN + any(3) : 0);
    for (int byte = 0; byte < 6; byte++) step->begins[byte] = (uint8_t)any(256);
    step->vr[0] = 'V', step->vr[1] = 'R';
  }
  for (uint32_t at = 0; at < p->piece_count; at++) {
    struct m3_piece *piece = &m.pieces[at];
    piece->size = at ? any(RUN) : 1 + any(any(20) ? RUN : 9000);
    piece->text = bytes(piece->size, 1);
    piece->step = at ? (int32_t)any(p->step_count + 2) - 2 : -1;
    piece->always = !at || any(2);
  }
  p->steps = m.steps;
  p->pieces = m.pieces;
  return m;
}

static void forget_pattern(struct made *m) {
  struct m3_pattern *p = &m->pattern;
  for (uint32_t at = 0; at < p->step_count; at++) free((void *)m->steps[at].run), free((void *)m->steps[at].text);
  for (uint32_t at = 0; at < p->piece_count; at++) free((void *)m->pieces[at].text);
  free((void *)p->run), free((void *)p->text), free(m->steps), free(m->pieces);
}

/* A value of the step, likely or not; its length. */
static uint32_t make_value(const struct m3_step *step, int plain, uint8_t *out) {
  uint32_t size = any(any(6) ? 16 : step->limit + 1), width = step->reader >= M3_UL ? 4 : 2;
  if (step->reader >= M3_US) {
    if (plain || any(4)) size = size / width * width;
    for (uint32_t at = 0; at < size; at++) out[at] = (uint8_t)any(256);
    return size;
  }
  static const char *const moments[] = {"20240131", "101112.123456", "20240228101112.5", "235959",
                                        "20240230", "10111",         "20241301"};
  if (step->fold >= M3_DATE_COLUMN) {
    const char *moment = moments[plain ? step->fold - M3_DATE_COLUMN : (int)any(7)];
    memcpy(out, moment, strlen(moment));
    return (uint32_t)strlen(moment);
  }
  if (plain && size > 9) size = 9;
  const char *from = plain ? "0123456789" : letters[step->reader];
  uint32_t choice = (uint32_t)strlen(from) + !plain;
  for (uint32_t at = 0; at < size; at++) out[at] = (uint8_t)from[any(choice)];
  return size;
}

/* A data set of the pattern with this UID, spoilt now and then, of exactly `size` bytes. */
static uint8_t *make_dataset(const struct made *m, const char *uid, int spoil, uint32_t *size) {
  const struct m3_pattern *p = &m->pattern;
  uint8_t *whole = memory(p->step_count * (RUN + 3100) + RUN + p->pixels), *at = whole;
  for (uint32_t n = 0; n < p->step_count; n++) {
    const struct m3_step *step = &p->steps[n];
    uint8_t value[3100];
    uint32_t length = make_value(step, m->plain, value), known = p->explicit_vr ? 6 : 4;
    if (n == p->uid_step) length = (uint32_t)strlen(uid), memcpy(value, uid, length);
    memcpy(at, step->run, step->run_size);
    memcpy(at += step->run_size, step->begins, known);
    for (uint32_t byte = known; byte < 8; byte++) at[byte] = (uint8_t)(length >> 8 * (byte - known));
    memcpy(at += 8, value, length);
    at += length;
  }
  memcpy(at, p->run, p->run_size);
  at += p->run_size;
  for (uint32_t n = 0; n < p->pixels; n++) *at++ = (uint8_t)n;
  *size = (uint32_t)(at - whole);
  for (uint32_t spoilt = spoil ? any(4) : 0; *size && spoilt; spoilt--)
    whole[any(any(2) || *size < 200 ? *size : 200)] = (uint8_t)any(256);
  if (spoil && *size && !any(6)) *size -= any(*size);
  uint8_t *out = memory(*size);
  memcpy(out, whole, *size);
  free(whole);
  return out;
}

static void made_of(const struct m3_pattern *p, const struct m3_followed *f, const uint8_t *data, uint32_t size) {
  holds(f->json_size <= sizeof f->json && f->row_size <= sizeof f->row && f->row_size, "texts in their room");
  holds(f->row[f->row_size - 1] == '}', "a row that ends");
  holds(f->place + p->pixels == size, "pixel data that end the data set");
  holds(f->uid >= data && f->uid + f->uid_size <= data + size, "a UID in the data set");
  for (uint32_t n = 0; n < p->step_count; n++) {
    holds(f->steps[n].at + f->steps[n].size <= f->json_size, "an entry in the text");
    holds(f->steps[n].folded.kind != M3_TEXT || f->steps[n].folded.size <= sizeof f->steps[n].text, "a value in its room");
  }
}

void follow(void) {
  struct made m = make_pattern();
  struct m3_followed *f = (struct m3_followed *)memory(sizeof *f);
  for (int times = 0; times < 4; times++) {
    uint32_t size;
    int spoil = (int)any(2);
    uint8_t *data = make_dataset(&m, "1.2.3", spoil, &size);
    if (m3_follow(&m.pattern, data, size, f)) {
      made_of(&m.pattern, f, data, size);
      followed++;
    }
    free(data);
  }
  free(f);
  forget_pattern(&m);
}

/* ---- an index that answers as it likes ---- */

static char row[] = "{\"00080062\":{\"vr\":\"UI\",\"Value\":[\"1.2\"]},\"00201208\":{\"vr\":\"IS\",\"Value\":[1]},"
                    "\"00201209\":{\"vr\":\"IS\",\"Value\":[9]}}";
static int fails(void) { return any(60) ? 0 : 1; }
static int sql_open(const char *path, void **made, int flags, const char *vfs) {
  return (void)path, (void)flags, (void)vfs, *made = row, 0;
}
static int sql_nothing(void *of) { return (void)of, 0; }
static int sql_exec(void *of, const char *text, void *a, void *b, char **c) {
  return (void)of, (void)text, (void)a, (void)b, (void)c, 0;
}
static int sql_prepare(void *of, const char *text, int size, void **made, const char **rest) {
  static char known[] = "BCRLI"; /* a statement is its first letter */
  return (void)of, (void)size, (void)rest, *made = strchr(known, *text), 0;
}
static int sql_step(void *of) {
  if (*(const char *)of == 'L') return any(20) ? 100 : fails() ? 1 : 101;
  return fails() ? 1 : 101;
}
static int sql_parameters(void *of) { return *(const char *)of == 'L' ? 5 : MOST + 20; }
static int sql_bind(void *of, int at) { return (void)of, (void)at, any(4000) ? 0 : 1; }
static int sql_bind_int(void *of, int at, int64_t value) { return (void)value, sql_bind(of, at); }
static int sql_bind_real(void *of, int at, double value) { return (void)value, sql_bind(of, at); }
static volatile uint8_t sum;
static int sql_bind_bytes(void *of, int at, const void *from, int size, void (*destroy)(void *)) {
  for (int n = 0; n < size; n++) sum ^= ((const uint8_t *)from)[n];
  return holds(destroy == NULL && size >= 0, "what is bound"), sql_bind(of, at);
}
static int sql_columns(void *of) { return (void)of, 17; }
static int sql_type(void *of, int at) {
  (void)of;
  if (!any(60)) return 1 + (int)any(5);
  /* as pacs/index/joining.py HERE usually is: 1 a number, 2 a decimal, 3 a text, 5 nothing */
  return "13311255352131255"[at] - '0';
}
static int64_t sql_int(void *of, int at) { return (void)of, (void)at, (int64_t)any(1000); }
static double sql_real(void *of, int at) { return (void)of, (void)at, any(60) ? 1.0 : 1e12; }
static int is_row(int at) { return at == 2 || at == 12; }
static const void *sql_blob(void *of, int at) { return (void)of, any(60) ? (is_row(at) ? row : "P1") : NULL; }
static int sql_bytes(void *of, int at) {
  return (void)of, is_row(at) ? (int)(any(20) ? sizeof row - 1 : any(sizeof row)) : 2;
}
static int sql_autocommit(void *of) { return (void)of, (int)any(2); }

static uint64_t an_index(void) {
  static uint64_t joiner, turn;
  const void *const table[] = {
      (void *)sql_open, (void *)sql_nothing, (void *)sql_exec, (void *)sql_prepare, (void *)sql_nothing, (void *)sql_step,
      (void *)sql_nothing, (void *)sql_parameters, (void *)sql_bind, (void *)sql_bind_int, (void *)sql_bind_real,
      (void *)sql_bind_bytes, (void *)sql_bind_bytes, (void *)sql_columns, (void *)sql_type, (void *)sql_int,
      (void *)sql_real, (void *)sql_blob, (void *)sql_bytes, (void *)sql_autocommit};
  if (joiner) return joiner;
  holds(m3_turn_open(fileno(tmpfile()), &turn) == 0, "a turn");
  holds(m3_joiner_open(table, "", "", "", "Look up", "Insert", turn, &joiner) == 0, "a joiner");
  return joiner;
}

/* ---- what instances have in common ---- */

struct common {
  struct m3_alike alike;
  struct m3_value columns[COLUMNS], lookup[5];
};

static struct common *make_common(const struct made *m) {
  struct common *made = (struct common *)memory(sizeof *made);
  struct m3_alike *a = &made->alike;
  memset(made, 0, sizeof *made);
  a->pattern = &m->pattern;
  a->before = bytes(a->before_size = any(200), 0), a->behind = bytes(a->behind_size = any(200), 0);
  a->facts = bytes(a->facts_size = any(any(9) ? 400 : 1200), 0), a->suffix = bytes(a->suffix_size = any(60), 0);
  a->bulk_before = bytes(a->bulk_before_size = any(any(9) ? 60 : 300), 1);
  a->bulk_behind = bytes(a->bulk_behind_size = any(60), 1);
  a->lookup = made->lookup;
  a->lookup_uids[0] = any(5), a->lookup_uids[1] = any(5), a->lookup_uids[2] = a->lookup_uids[3] = UINT32_MAX;
  uint32_t place = MOST;
  a->uids[0] = a->uids[1] = place++, a->uids[2] = place++;
  a->times[0] = a->times[1] = place++, a->times[2] = place++;
  a->row = place++, a->digest = place++, a->offset = place++, a->length = place++, a->json = place++, a->bulk = place++;
  a->key = place++, a->frames = place++, a->frames_size = any(2) ? 32 : 0, a->frames_at = any(25);
  a->joining = (struct m3_joining){
      .lookup = made->lookup, .lookup_count = 5, .columns = made->columns, .column_count = COLUMNS, .series_row = place,
      .series_instances = place + 1, .study_row = place + 2, .study_instances = place + 3, .last = place + 4,
      .scope = {.kind = M3_TEXT, .size = 2, .bytes = "P1"}, .patient_id = {.kind = M3_TEXT, .size = 2, .bytes = "P1"},
      .sop_class = {.kind = M3_TEXT, .size = 3, .bytes = "1.2"}};
  return made;
}

static void forget_common(struct common *made) {
  struct m3_alike *a = &made->alike;
  free((void *)a->before), free((void *)a->behind), free((void *)a->facts), free((void *)a->suffix);
  free((void *)a->bulk_before), free((void *)a->bulk_behind), free(made);
}

static struct m3_strip make_strip(int fd, uint64_t size) {
  return (struct m3_strip){.at = BLOCK, .end = BLOCK + size, .fd = fd, .redo = any(2),
                           .name = {.kind = M3_TEXT, .size = 7, .bytes = "segment"}};
}

static int a_file(uint64_t *writes, int count) {
  static FILE *file;
  static uint64_t made[M3_SLOTS];
  if (!file) {
    holds((file = tmpfile()) != NULL, "a file");
    for (int n = 0; n < M3_SLOTS; n++) holds(m3_write_open(&made[n]) == 0, "what writes");
  }
  memcpy(writes, made, (size_t)count * sizeof *made);
  return fileno(file);
}

/* ---- a whole C-STORE ---- */

static uint32_t put_message(uint8_t *out, uint32_t context, uint32_t kind, const uint8_t *from, uint32_t size) {
  uint32_t written = 0, at = 0;
  do {
    uint32_t piece = any(3) ? size - at : any(size - at + 1);
    if (!piece && at < size) piece = 1;
    if (piece > 60000) piece = 60000;
    uint8_t *pdu = out + written;
    pdu[0] = 4, pdu[1] = 0;
    put32(pdu + 2, piece + 6);
    put32(pdu + 6, piece + 2);
    pdu[10] = (uint8_t)context;
    pdu[11] = (uint8_t)(kind | (at + piece == size ? 2 : 0));
    memcpy(pdu + 12, from + at, piece);
    at += piece;
    written += piece + 12;
  } while (at < size);
  return written;
}

void express(void) {
  uint64_t write;
  int fd = a_file(&write, 1);
  struct made m = make_pattern();
  m.plain = any(8) != 0;
  struct common *common = make_common(&m);
  struct m3_express *x = (struct m3_express *)memory(sizeof *x);
  memset(x, 0, sizeof *x);
  int pair[2];
  holds(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
  struct m3_wire w = {.fd = pair[0], .size = 16 + any(300), .max_pdu = 1u << 17};
  struct m3_patience patience = {5, 5, 30, 1};
  static const uint8_t like_bytes[] = "COMMAND..NUMBER..1.2.3\0THE END";
  uint8_t *like = memory(sizeof like_bytes), *reply = memory(40);
  memcpy(like, like_bytes, sizeof like_bytes);
  for (int at = 0; at < 40; at++) reply[at] = (uint8_t)at;
  w.buffer = memory(w.size);
  x->wire = &w, x->patience = &patience, x->alike = &common->alike;
  x->followed = (struct m3_followed *)memory(sizeof *x->followed);
  x->packed = memory(M3_PACKED_ROOM);
  x->room = 1 + any(any(6) ? 40000 : 3000);
  uint64_t blocks = (BEFORE + x->room + BLOCK - 1) / BLOCK * BLOCK;
  x->memory = memory(blocks);
  x->command = memory(COMMAND_ROOM), x->command_room = COMMAND_ROOM;
  x->like = like, x->like_size = sizeof like_bytes, x->number_at = 7, x->uid_at = 17, x->uid_room = 6, x->context = 3;
  x->reply = reply, x->reply_size = 40, x->reply_number_at = 5, x->reply_uid_at = 30;
  x->strip = make_strip(fd, (any(9) ? 8 : any(3)) * BLOCK + blocks);
  x->write = write;
  x->joiner = an_index();
  for (uint32_t count = 1 + any(5), number = 0; number < count; number++) {
    uint32_t size, spoil = any(3) ? 0 : 1 + any(2);
    char uid[8] = "1.2.3";
    uid[4] = (char)('0' + any(10));
    uint8_t *data = make_dataset(&m, uid, spoil == 1, &size), *command = memory(sizeof like_bytes);
    if (size > 50000) {
      free(data), free(command);
      continue;
    }
    memcpy(command, like_bytes, sizeof like_bytes);
    memcpy(command + 17, uid, 5);
    command[7] = (uint8_t)any(256);
    if (spoil == 2 && any(2)) command[any(sizeof like_bytes)] = (uint8_t)any(256);
    uint8_t *out = memory(20 * (size + 100) + 20 * sizeof like_bytes + 100);
    uint32_t sent = put_message(out, 3, 1, command, sizeof like_bytes);
    sent += put_message(out + sent, 3, 0, data, size);
    if (spoil == 2 && any(2)) out[any(sent)] = (uint8_t)any(256);
    if (spoil == 2 && !any(3)) sent -= any(sent);
    holds(sent < 190000 && send(pair[1], out, sent, MSG_DONTWAIT) == (ssize_t)sent, "send");
    if (spoil) shutdown(pair[1], SHUT_WR);
    uint64_t strip = x->strip.at;
    int passage = m3_express(x);
    if (passage == M3_STRIP) {
      x->strip = make_strip(fd, blocks), strip = x->strip.at;
      passage = m3_express(x);
      holds(passage != M3_STRIP, "a strip that is long enough");
    }
    holds(w.start <= w.end && w.end <= w.size && x->size <= x->room, "bounds");
    if (passage == M3_STORED) {
      uint8_t answer[40], *there = memory(size);
      stored++;
      holds(!x->unsent && x->strip.at > strip && !x->erase_size && !x->busy, "a record, and an answer");
      holds(recv(pair[1], answer, 40, MSG_DONTWAIT) == 40, "an answer of that length");
      int answered = !memcmp(answer + 5, command + 7, 2) && !memcmp(answer + 30, uid, 5);
      holds(answered || spoil == 2, "the answer to this request");
      holds(pread(fd, there, size, (off_t)(strip + BEFORE)) == (ssize_t)size, "a record");
      holds(!memcmp(there, data, size) || spoil == 2, "the data set in its place");
      free(there);
    } else {
      odd++;
      holds(passage == M3_BEFORE || passage == M3_WITHIN, "an outcome");
      if (passage == M3_WITHIN && x->outcome == M3_DONE)
        holds(spoil || (x->size == size && !memcmp(x->memory + BEFORE, data, size)), "what came");
      holds(poll(&(struct pollfd){.fd = pair[1], .events = POLLIN}, 1, 0) == 0, "no answer");
      number = count;
    }
    free(out), free(data), free(command);
    if (spoil) break;
  }
  close(pair[0]), close(pair[1]);
  forget_common(common);
  free(w.buffer), free(x->followed), free(x->packed), free(x->memory), free(x->command), free(like), free(reply);
  free(x);
  forget_pattern(&m);
}

/* ---- bodies of parts ---- */

enum { META = 220, UID_AT = 156, STAGING = 8000, BODY = 180000 };

/* Preamble and File Meta with this UID; its length. */
static uint32_t put_meta(const uint8_t *like, uint32_t like_uid, const char *uid, uint8_t *out) {
  uint32_t size = (uint32_t)strlen(uid), padded = size + (size & 1), behind = META - UID_AT - like_uid;
  memcpy(out, like, UID_AT);
  out[UID_AT - 2] = (uint8_t)padded, out[UID_AT - 1] = 0;
  memset(out + UID_AT, 0, padded);
  memcpy(out + UID_AT, uid, size);
  memcpy(out + UID_AT + padded, like + UID_AT + like_uid, behind);
  uint32_t whole = UID_AT + padded + behind, length = whole - 144;
  for (int n = 0; n < 4; n++) out[140 + n] = (uint8_t)(length >> 8 * n);
  return whole;
}

/* A body: parts, one delimiter and head behind each, something else at the end. */
static uint32_t make_body(const struct made *m, const uint8_t *meta, uint8_t *out, int spoil, const char *delimiter) {
  uint32_t size = 0, dataset;
  for (uint32_t count = any(6); count; count--) {
    char uid[12] = "1.2.3";
    if (any(3)) snprintf(uid, sizeof uid, "1.2.%u", any(100000));
    uint8_t *data = make_dataset(m, uid, spoil && !any(3), &dataset);
    if (dataset < 40000 && size < BODY - 42000) {
      size += put_meta(meta, 6, any(30) ? uid : "1.2.4", out + size);
      memcpy(out + size, data, dataset);
      size += dataset;
      size += (uint32_t)sprintf((char *)out + size, "%s%s", delimiter, any(20) ? "HEAD" : "--");
    }
    free(data);
  }
  size += (uint32_t)sprintf((char *)out + size, "%s", any(2) ? "" : "something else");
  for (uint32_t n = spoil && size ? any(3) : 0; n; n--) out[any(size)] = (uint8_t)any(256);
  return size;
}

void inflow(void) {
  static const char delimiter[] = "\r\n--boundary";
  struct m3_inflow *x = (struct m3_inflow *)memory(sizeof *x);
  memset(x, 0, sizeof *x);
  struct made m = make_pattern();
  m.plain = any(8) != 0;
  struct common *common = make_common(&m);
  int spoil = !any(3), pair[2], fd = a_file(x->write, M3_SLOTS);
  holds(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
  uint8_t *meta = memory(META), *body = memory(BODY), *there = memory(50000), *again = memory(BODY);
  for (int n = 0; n < META; n++) meta[n] = (uint8_t)any(256);
  uint32_t size = make_body(&m, meta, body, spoil, delimiter), staged = any(any(2) ? STAGING : 300), sent;
  if (staged > size) staged = size;
  x->alike = &common->alike;
  x->followed = (struct m3_followed *)memory(sizeof *x->followed);
  x->packed = memory(M3_PACKED_ROOM);
  x->fd = pair[0];
  x->staging = memory(STAGING), x->staging_room = STAGING, x->end = staged;
  memcpy(x->staging, body, staged);
  x->left = size - staged;
  x->delimiter = (const uint8_t *)delimiter, x->delimiter_size = sizeof delimiter - 1;
  x->head = (const uint8_t *)"HEAD", x->head_size = 4;
  x->meta = meta, x->meta_size = META, x->uid_at = UID_AT, x->uid_size = 6;
  x->room = 1 + any(any(6) ? 40000 : 3000);
  uint64_t blocks = m3_blocks(x->room), room = 8 * M3_PACKED_ROOM;
  for (int n = 0; n < M3_SLOTS; n++) x->memory[n] = memory(blocks);
  x->strip = make_strip(fd, any(9) ? 8 * blocks : any(2) * blocks);
  uint8_t *taken = memory(room);
  x->taken = taken, x->taken_room = any(9) ? room : any((uint32_t)room);
  sent = x->left && spoil ? any((uint32_t)x->left + 1) : (uint32_t)x->left;
  holds(send(pair[1], body + staged, sent, MSG_DONTWAIT) == (ssize_t)sent, "send");
  shutdown(pair[1], SHUT_WR);
  for (int flow = M3_TURN; flow == M3_TURN || flow == M3_QUIET || flow == M3_ROOM || flow == M3_FULL;) {
    x->most = any(4) ? 1 << 20 : any(9000);
    x->until = any(4) ? 1e18 : 0;
    flow = m3_inflow(x);
    holds(x->start <= x->end && x->end <= STAGING && x->size <= x->room, "bounds");
    holds(flow != M3_QUIET, "something to receive, or an end");
    if (flow == M3_ROOM) {
      holds(x->strip.end - x->strip.at < blocks, "a strip that was used up");
      m3_inflow_land(x);
      break;
    }
    if (flow == M3_FULL) {
      holds(x->taken_room < room, "room that was used up");
      break;
    }
    if (flow == M3_TURN || flow == M3_LEFT) continue;
    uint32_t whole = 0, rest = x->end - x->start;
    if (flow == M3_UNLIKE) {
      memcpy(again, x->meta_now, whole = x->meta_now_size);
      memcpy(again + whole, x->memory[x->slot] + BEFORE, x->size);
      whole += (uint32_t)x->size;
    }
    memcpy(again + whole, x->staging + x->start, rest);
    whole += rest;
    uint32_t at = size - (uint32_t)x->left - whole;
    holds(at <= size && !memcmp(again, body + at, whole), "what is handed back is what came");
    odd++;
  }
  m3_inflow_land(x);
  holds((uint64_t)(x->taken - taken) <= room, "what was taken in its room");
  const uint8_t *next = taken;
  for (uint32_t n = 0; n < x->count; n++) {
    const struct m3_taken *one = (const struct m3_taken *)(const void *)next;
    holds(one->wrote == (int64_t)one->blocks && one->length >= M3_RESERVE, "a record that was written");
    uint32_t length = (uint32_t)(one->length - M3_RESERVE);
    holds(pread(fd, there, length, (off_t)(one->offset + M3_RESERVE)) == (ssize_t)length, "a record");
    holds(memmem(body, size, there, length) != NULL, "a data set that came");
    next += one->size;
    flowed++;
  }
  holds(next == x->taken, "one behind the other");
  uint8_t *outcomes = memory(x->count);
  m3_join_taken(an_index(), x->alike, taken, x->count, outcomes);
  for (uint32_t n = 0; n < x->count; n++) holds(outcomes[n] <= M3_UNJOINED && outcomes[n] != M3_UNWRITTEN, "what became of it");
  for (int n = 0; n < M3_SLOTS; n++) free(x->memory[n]);
  close(pair[0]), close(pair[1]);
  free(outcomes), free(taken), free(x->staging), free(x->packed), free(x->followed), free(meta), free(body), free(there);
  free(again), free(x);
  forget_common(common);
  forget_pattern(&m);
}
