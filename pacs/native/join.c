/* Instances that join their series in the index, on SQLite.

   pacs/filing.py `join` is the reference: what it would write is written here, and what it would leave to others is left
   to Python. Those who come while somebody else of this process writes wait in a row, and the next one takes all of them
   into its transaction: what a commit costs is shared, and of the threads that wait only one has to be scheduled before
   all of them are done. SQLite is the one that Python uses, called through a table of its functions. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

/* ---- SQLite ---- */

enum { OK = 0, ROW = 100, DONE = 101, TYPE_TEXT = 3, TYPE_NULL = 5, READWRITE = 2, NOMUTEX = 0x8000 };

typedef struct database database;
typedef struct statement statement;

/* In the order of pacs/index/joiner.py; `destroy` of what is bound is always NULL: it stays where it is until the step. */
struct sqlite {
  int (*open)(const char *, database **, int, const char *);
  int (*close)(database *);
  int (*exec)(database *, const char *, void *, void *, char **);
  int (*prepare)(database *, const char *, int, statement **, const char **);
  int (*finalize)(statement *);
  int (*step)(statement *);
  int (*reset)(statement *);
  int (*parameters)(statement *);
  int (*bind_null)(statement *, int);
  int (*bind_int64)(statement *, int, int64_t);
  int (*bind_double)(statement *, int, double);
  int (*bind_text)(statement *, int, const char *, int, void (*destroy)(void *));
  int (*bind_blob)(statement *, int, const void *, int, void (*destroy)(void *));
  int (*columns)(statement *);
  int (*column_type)(statement *, int);
  int64_t (*column_int64)(statement *, int);
  double (*column_double)(statement *, int);
  const void *(*column_blob)(statement *, int);
  int (*column_bytes)(statement *, int);
  int (*autocommit)(database *);
};

/* What the look-up finds: the columns of pacs/index/joining.py HERE. */
enum here {
  STUDY, SCOPE, STUDY_ROW, SERIES_IN_STUDY, IN_STUDY, LAST, STABLE_AT, FINGERPRINT, PATIENT_ID, ISSUER, STUDY_CAME,
  SERIES, SERIES_ROW, IN_SERIES, SERIES_CAME, HELD, BURIED, HERE
};

/* ---- the joiner ---- */

enum { TOGETHER = 16 }; /* at most so many in one transaction: those of other processes wait for its end */

struct room {
  uint8_t *bytes;
  size_t size;
};

enum state { WAITS, LEADS, ENDED };

/* One who wants instances in, on the stack of its thread. */
struct waiter {
  struct m3_joining *arrival;
  uint32_t count;    /* of arrivals, one behind the other */
  uint8_t *outcomes; /* of each, where there are several: `outcome` then is that of the transaction */
  struct waiter *next;
  pthread_cond_t called;
  enum state state;
  int outcome;
  int writes; /* the object's write was not awaited yet */
};

struct joiner {
  struct sqlite sqlite;
  uint64_t turn;
  /* Of who leads, with the turn: */
  database *database;
  statement *begin, *commit, *rollback, *lookup, *insert;
  uint32_t lookup_count, column_count;
  struct room study_row, series_row;
  /* Guarded: */
  pthread_mutex_t guard;
  pthread_cond_t empty;
  struct waiter *first, **end; /* those who wait, the longest first */
  int led;                     /* somebody leads, or is called to */
  int within;                  /* so many threads are in m3_join */
  int closed;
};

static struct joiner *joiner_at(uint64_t joiner) { return (struct joiner *)(uintptr_t)joiner; }

/* Run a statement that returns nothing: 0, or not. */
static int run(struct joiner *j, statement *of) {
  int ended = j->sqlite.step(of);
  j->sqlite.reset(of);
  return ended != DONE;
}

static int bind(const struct sqlite *sqlite, statement *to, const struct m3_value *values, uint32_t count) {
  int failed = 0;
  for (uint32_t n = 0; n < count && !failed; n++) {
    const struct m3_value *value = &values[n];
    const void *bytes = value->size ? value->bytes : ""; /* what is empty is not NULL */
    int at = (int)n + 1, size = (int)value->size;
    switch (value->kind) {
      case M3_NULL: failed = sqlite->bind_null(to, at); break;
      case M3_INTEGER: failed = sqlite->bind_int64(to, at, value->integer); break;
      case M3_REAL: failed = sqlite->bind_double(to, at, value->real); break;
      case M3_TEXT: failed = size < 0 || sqlite->bind_text(to, at, bytes, size, NULL); break;
      case M3_BLOB: failed = size < 0 || sqlite->bind_blob(to, at, bytes, size, NULL); break;
      default: failed = 1;
    }
  }
  return failed;
}

/* ---- what has to be so ---- */

static int is_null(struct joiner *j, enum here column) { return j->sqlite.column_type(j->lookup, column) == TYPE_NULL; }

static int equals(struct joiner *j, enum here column, const struct m3_value *value) {
  int type = j->sqlite.column_type(j->lookup, column);
  if (type == TYPE_NULL || value->kind == M3_NULL) return type == TYPE_NULL && value->kind == M3_NULL;
  if (type != TYPE_TEXT || value->kind != M3_TEXT) return 0;
  const void *there = j->sqlite.column_blob(j->lookup, column); /* before its length */
  return (uint32_t)j->sqlite.column_bytes(j->lookup, column) == value->size &&
         (!value->size || (there && !memcmp(there, value->bytes, value->size)));
}

/* A stored row (pacs/index/rows.py): JSON in which no text holds what opens a member, since its quotes would be escaped. */
struct row {
  const char *bytes, *end;
};

static struct row row_at(struct joiner *j, enum here column) {
  const char *bytes = j->sqlite.column_blob(j->lookup, column);
  int size = j->sqlite.column_bytes(j->lookup, column);
  return (struct row){bytes, bytes ? bytes + size : bytes};
}

/* Behind the first occurrence of `what`, or NULL. */
static const char *behind(const char *from, const char *end, const void *what, size_t size) {
  const char *found = from ? memmem(from, (size_t)(end - from), what, size) : NULL;
  return found ? found + size : NULL;
}

/* As rows.names_classes. */
static int names_class(struct row row, const struct m3_value *uid) {
  static const char start[] = "\"00080062\":";
  const char *from = behind(row.bytes, row.end, start, sizeof start - 1);
  const char *end = from ? memchr(from, '}', (size_t)(row.end - from)) : NULL;
  if (!end || uid->kind != M3_TEXT || !uid->size) return 0;
  while ((from = behind(from, end, uid->bytes, uid->size)))
    if (from[-(ptrdiff_t)uid->size - 1] == '"' && from < end && *from == '"') return 1;
  return 0;
}

/* As rows.recounted, into the room: 1, or 0 where the row has no such count, or -1 without memory. */
static int recounted(struct room *room, struct row row, const char *member, int64_t count, struct m3_value *value) {
  const char *at = behind(row.bytes, row.end, member, strlen(member));
  const char *rest = at ? memchr(at, ']', (size_t)(row.end - at)) : NULL;
  char digits[24];
  if (!rest) return 0;
  size_t before = (size_t)(at - row.bytes), after = (size_t)(row.end - rest);
  size_t written = (size_t)snprintf(digits, sizeof digits, "%lld", (long long)count), size = before + written + after;
  if (size > room->size) {
    uint8_t *grown = realloc(room->bytes, 2 * size);
    if (!grown) return -1;
    room->bytes = grown;
    room->size = 2 * size;
  }
  memcpy(room->bytes, row.bytes, before);
  memcpy(room->bytes + before, digits, written);
  memcpy(room->bytes + before + written, rest, after);
  *value = (struct m3_value){.kind = M3_BLOB, .size = (uint32_t)size, .bytes = room->bytes};
  return 1;
}

/* Whether all is as usual with what the look-up found; then the arrival's columns are complete. -1: no memory. */
static int usual(struct joiner *j, struct m3_joining *arrival) {
  const struct sqlite *sqlite = &j->sqlite;
  if (!is_null(j, HELD) || !is_null(j, BURIED)) return 0;
  if (!is_null(j, STABLE_AT) || !is_null(j, FINGERPRINT)) return 0;
  if (!equals(j, SCOPE, &arrival->scope)) return 0;
  if (!equals(j, PATIENT_ID, &arrival->patient_id) || !equals(j, ISSUER, &arrival->issuer)) return 0;
  double study_came = sqlite->column_double(j->lookup, STUDY_CAME);
  double series_came = sqlite->column_double(j->lookup, SERIES_CAME);
  if (!(arrival->at >= study_came && arrival->at >= series_came)) return 0;
  if (!names_class(row_at(j, STUDY_ROW), &arrival->sop_class)) return 0;

  struct m3_value *columns = arrival->columns;
  int64_t in_series = sqlite->column_int64(j->lookup, IN_SERIES) + 1;
  int64_t in_study = sqlite->column_int64(j->lookup, IN_STUDY) + 1;
  double last = is_null(j, LAST) ? arrival->at : sqlite->column_double(j->lookup, LAST);
  columns[arrival->series_instances] = (struct m3_value){.kind = M3_INTEGER, .integer = in_series};
  columns[arrival->study_instances] = (struct m3_value){.kind = M3_INTEGER, .integer = in_study};
  columns[arrival->last] = (struct m3_value){.kind = M3_REAL, .real = last > arrival->at ? last : arrival->at};
  static const char series_count[] = "\"00201209\":{\"vr\":\"IS\",\"Value\":[";
  static const char study_count[] = "\"00201208\":{\"vr\":\"IS\",\"Value\":[";
  int made = recounted(&j->series_row, row_at(j, SERIES_ROW), series_count, in_series, &columns[arrival->series_row]);
  if (made == 1)
    made = recounted(&j->study_row, row_at(j, STUDY_ROW), study_count, in_study, &columns[arrival->study_row]);
  return made;
}

/* Write one instance, within a transaction: M3_JOINED, M3_UNUSUAL with nothing written, or M3_UNJOINED. */
static int write_rows(struct joiner *j, struct m3_joining *arrival) {
  uint32_t count = arrival->column_count;
  if (arrival->lookup_count != j->lookup_count || count != j->column_count || arrival->series_row >= count ||
      arrival->series_instances >= count || arrival->study_row >= count || arrival->study_instances >= count ||
      arrival->last >= count || bind(&j->sqlite, j->lookup, arrival->lookup, arrival->lookup_count))
    return M3_UNJOINED;
  int found = j->sqlite.step(j->lookup);
  int made = found == ROW ? usual(j, arrival) : found == DONE ? 0 : -1;
  j->sqlite.reset(j->lookup);
  if (made <= 0) return made ? M3_UNJOINED : M3_UNUSUAL;
  if (bind(&j->sqlite, j->insert, arrival->columns, count) || run(j, j->insert)) return M3_UNJOINED;
  return M3_JOINED;
}

/* The same for all that somebody wants in. */
static int write_all(struct joiner *j, struct waiter *of) {
  if (!of->outcomes) return write_rows(j, of->arrival);
  for (uint32_t n = 0; n < of->count; n++)
    if ((of->outcomes[n] = (uint8_t)write_rows(j, of->arrival + n)) == M3_UNJOINED) return M3_UNJOINED;
  return M3_JOINED;
}

/* ---- transactions ---- */

/* Wait for the object's write, once: whether all of it is on the disk. */
static int written(struct waiter *who) {
  struct m3_joining *arrival = who->arrival;
  if (who->writes) arrival->wrote = m3_write_end(arrival->write);
  who->writes = 0;
  return !arrival->write || arrival->wrote == arrival->length;
}

/* Take the one who waits longest out of the row, or NULL. */
static struct waiter *next_in_row(struct joiner *j) {
  struct waiter *first = j->first;
  if (first && !(j->first = first->next)) j->end = &j->first;
  return first;
}

/* One transaction of the leader's instance and those of all who wait, or come before it ends. Theirs are written, and
   awaited; the leader's own write may go on meanwhile. Returns how many there were. */
static int transact(struct joiner *j, struct waiter **batch) {
  struct waiter *own = batch[0];
  int count = 1, joined = 0, failed = run(j, j->begin), torn = 0;
  for (int n = 0; !failed; n++) {
    if (n == count && count < TOGETHER) {
      pthread_mutex_lock(&j->guard);
      struct waiter *more = next_in_row(j);
      pthread_mutex_unlock(&j->guard);
      if (more) batch[count++] = more;
    }
    if (n == count) {
      if (own->outcome != M3_JOINED || !own->writes) break;
      torn = !written(own); /* nobody is to see an instance before; and others may have come meanwhile */
      if (torn) break;
      n--;
      continue;
    }
    batch[n]->outcome = write_all(j, batch[n]);
    failed = batch[n]->outcome == M3_UNJOINED;
    joined += batch[n]->outcome == M3_JOINED;
  }
  if (!failed && !torn && joined) failed = run(j, j->commit);
  if (failed || torn || !joined)
    if (!j->sqlite.autocommit(j->database)) run(j, j->rollback);
  for (int n = 0; n < count && (failed || torn); n++)
    if (failed || batch[n]->outcome == M3_JOINED) batch[n]->outcome = failed ? M3_UNJOINED : M3_UNUSUAL;
  return count;
}

/* Have the instance of who leads in, and with it those of others; then somebody else leads. Returns with the guard. */
static void lead(struct joiner *j, struct waiter *own) {
  struct waiter *batch[TOGETHER] = {own};
  int count = 1, taken = m3_turn_take(j->turn, 0);
  own->outcome = M3_UNJOINED;
  if (!taken && written(own)) /* somebody else writes: what goes on meanwhile has the time */
    do taken = m3_turn_take(j->turn, 1);
    while (taken == -EINTR);
  if (taken == 1) {
    count = transact(j, batch);
    m3_turn_give(j->turn);
  }
  pthread_mutex_lock(&j->guard);
  for (int n = 1; n < count; n++) {
    batch[n]->state = ENDED;
    pthread_cond_signal(&batch[n]->called);
  }
  struct waiter *next = next_in_row(j);
  j->led = next != NULL;
  if (next) {
    next->state = LEADS;
    pthread_cond_signal(&next->called);
  }
}

/* Wait for one's turn in the row, and lead where one is called to. */
static void join(struct joiner *j, struct waiter *own) {
  pthread_mutex_lock(&j->guard);
  if (!j->closed) {
    j->within++;
    int sound = 1;
    if (j->led) {
      pthread_mutex_unlock(&j->guard);
      sound = written(own);
      pthread_mutex_lock(&j->guard);
    }
    if (sound && j->led) {
      pthread_cond_init(&own->called, NULL);
      own->state = WAITS;
      *j->end = own;
      j->end = &own->next;
      while (own->state == WAITS) pthread_cond_wait(&own->called, &j->guard);
      pthread_cond_destroy(&own->called);
    }
    if (sound && own->state == LEADS) {
      j->led = 1;
      pthread_mutex_unlock(&j->guard);
      lead(j, own);
    }
    if (!--j->within) pthread_cond_broadcast(&j->empty);
  }
  pthread_mutex_unlock(&j->guard);
}

int m3_join(uint64_t joiner, struct m3_joining *arrival) {
  struct waiter own = {.arrival = arrival, .count = 1, .state = LEADS, .outcome = M3_UNUSUAL, .writes = arrival->write != 0};
  join(joiner_at(joiner), &own);
  return written(&own) ? own.outcome : M3_UNWRITTEN;
}

int m3_join_all(uint64_t joiner, struct m3_joining *arrivals, uint32_t count, uint8_t *outcomes) {
  struct waiter own = {.arrival = arrivals, .count = count, .outcomes = outcomes, .state = LEADS, .outcome = M3_UNUSUAL};
  if (count) join(joiner_at(joiner), &own);
  if (own.outcome != M3_JOINED) memset(outcomes, own.outcome, count); /* nothing is written of any */
  return own.outcome == M3_UNJOINED ? M3_UNJOINED : 0;
}


/* ---- its beginning and end ---- */

static void release(struct joiner *j) {
  statement *all[] = {j->begin, j->commit, j->rollback, j->lookup, j->insert};
  for (size_t n = 0; n < sizeof all / sizeof *all; n++) j->sqlite.finalize(all[n]); /* NULL is nothing */
  j->sqlite.close(j->database);
  free(j->study_row.bytes);
  free(j->series_row.bytes);
}

static int prepare(struct joiner *j, const char *text, statement **made) {
  return j->sqlite.prepare(j->database, text, -1, made, NULL);
}

/* 0, or SQLite's error code, or minus an error number. */
int m3_joiner_open(const void *const *sqlite, const char *path, const char *vfs, const char *setup, const char *lookup,
                   const char *insert, uint64_t turn, uint64_t *joiner) {
  struct joiner *j = calloc(1, sizeof *j);
  if (!j) return -ENOMEM;
  memcpy(&j->sqlite, sqlite, sizeof j->sqlite);
  j->turn = turn;
  j->end = &j->first;
  pthread_mutex_init(&j->guard, NULL);
  pthread_cond_init(&j->empty, NULL);
  int failure = j->sqlite.open(path, &j->database, READWRITE | NOMUTEX, vfs);
  if (!failure) failure = j->sqlite.exec(j->database, setup, NULL, NULL, NULL);
  if (!failure) failure = prepare(j, "BEGIN IMMEDIATE", &j->begin);
  if (!failure) failure = prepare(j, "COMMIT", &j->commit);
  if (!failure) failure = prepare(j, "ROLLBACK", &j->rollback);
  if (!failure) failure = prepare(j, lookup, &j->lookup);
  if (!failure) failure = prepare(j, insert, &j->insert);
  if (!failure && j->sqlite.columns(j->lookup) != HERE) failure = -EINVAL;
  if (failure) {
    release(j);
    free(j);
    return failure;
  }
  j->lookup_count = (uint32_t)j->sqlite.parameters(j->lookup);
  j->column_count = (uint32_t)j->sqlite.parameters(j->insert);
  *joiner = (uint64_t)(uintptr_t)j;
  return 0;
}

/* Returns when those who are within have left. What is left of it refuses those who come later, so it stays: some hundred
   bytes for each index that was opened and closed. */
void m3_joiner_close(uint64_t joiner) {
  struct joiner *j = joiner_at(joiner);
  pthread_mutex_lock(&j->guard);
  int was = j->closed;
  j->closed = 1;
  while (j->within) pthread_cond_wait(&j->empty, &j->guard);
  pthread_mutex_unlock(&j->guard);
  if (!was) release(j);
}
