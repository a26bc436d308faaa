/* A data set that is like those before it: its metadata as JSON and the row of a search, out of what they had and the few
   values that differ (pacs/dicom/repeats.py and pacs/index/rows.py are the reference).

   Whatever is not plainly as expected is for Python to judge: 0 is always a right answer here. */
#include <stdio.h>
#include <string.h>

#include "native.h"

enum { ESCAPED_BELOW = 0x20, ASCII_END = 0x7F, NO_STEP = -1, ITS_UID = -2 };

struct out {
  uint8_t *at, *end;
};

static int put(struct out *o, const void *from, size_t size) {
  if ((size_t)(o->end - o->at) < size) return 0;
  memcpy(o->at, from, size);
  o->at += size;
  return 1;
}

static int put_text(struct out *o, const char *text) { return put(o, text, strlen(text)); }

struct span {
  const uint8_t *at, *end;
};

static int is_pad(uint8_t c) { return c == ' ' || c == 0; }

static int is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

static void strip_right(struct span *s) {
  while (s->end > s->at && is_pad(s->end[-1])) s->end--;
}

static void strip(struct span *s) {
  strip_right(s);
  while (s->at < s->end && is_pad(*s->at)) s->at++;
}

/* The text as it is in JSON: nothing that would be escaped, and nothing of which a character set decides. */
static int put_string(struct out *o, struct span s, int coded) {
  for (const uint8_t *c = s.at; c < s.end; c++)
    if (*c < ESCAPED_BELOW || *c >= ASCII_END || *c == '"' || *c == '\\' || (!coded && *c == '~')) return 0;
  return put(o, "\"", 1) && put(o, s.at, (size_t)(s.end - s.at)) && put(o, "\"", 1);
}

static int integer(struct span s, int64_t *value) {
  int minus = s.at < s.end && *s.at == '-';
  if (s.at < s.end && (*s.at == '-' || *s.at == '+')) s.at++;
  if (s.end - s.at < 1 || s.end - s.at > 9) return 0;
  for (*value = 0; s.at < s.end; s.at++) {
    if (!is_digit(*s.at)) return 0;
    *value = *value * 10 + (*s.at - '0');
  }
  if (minus) *value = -*value;
  return 1;
}

static int put_integer(struct out *o, int64_t value) {
  char text[24];
  return put(o, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)value));
}

/* A decimal of at most 15 digits as the shortest text that reads back equal: its own digits, without idle zeros. */
static int put_decimal(struct out *o, struct span s) {
  int minus = s.at < s.end && *s.at == '-';
  if (s.at < s.end && (*s.at == '-' || *s.at == '+')) s.at++;
  struct span whole = {s.at, s.at};
  while (whole.end < s.end && is_digit(*whole.end)) whole.end++;
  struct span rest = {whole.end, s.end};
  if (whole.at == whole.end) return 0;
  if (rest.at < rest.end) {
    if (*rest.at++ != '.' || rest.at == rest.end) return 0;
    for (const uint8_t *c = rest.at; c < rest.end; c++)
      if (!is_digit(*c)) return 0;
  }
  if ((whole.end - whole.at) + (rest.end - rest.at) > 15) return 0;
  while (whole.end - whole.at > 1 && *whole.at == '0') whole.at++;
  while (rest.end > rest.at && rest.end[-1] == '0') rest.end--;
  if (*whole.at == '0') { /* small ones are written otherwise from somewhere on, and zero has two signs */
    if (rest.at == rest.end) {
      if (minus) return 0;
    } else if (rest.end - rest.at > 2 && !memcmp(rest.at, "000", 3)) return 0;
  }
  if (minus && !put(o, "-", 1)) return 0;
  if (!put(o, whole.at, (size_t)(whole.end - whole.at)) || !put(o, ".", 1)) return 0;
  return rest.at == rest.end ? put(o, "0", 1) : put(o, rest.at, (size_t)(rest.end - rest.at));
}

static int number(const uint8_t *digits, int count, int most) {
  int value = 0;
  for (int i = 0; i < count; i++) {
    if (!is_digit(digits[i])) return -1;
    value = value * 10 + digits[i] - '0';
  }
  return value <= most ? value : -1;
}

/* Dates and times as they are compared, of those written in full; anything else is for Python. */
static int fold_moment(struct span s, uint32_t fold, char *text, uint32_t *size) {
  size_t length = (size_t)(s.end - s.at);
  const uint8_t *at = s.at;
  *size = 0;
  if (fold != M3_TIME_COLUMN) {
    if (length < 8 || number(at, 4, 9999) < 1000) return 0;
    int month = number(at + 4, 2, 12), day = number(at + 6, 2, 31);
    /* a date-time is one of the calendar, a date is not looked at so closely */
    int last = fold == M3_DATE_COLUMN ? 31 : month == 2 ? 28 : month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
    if (month < 1 || day < 1 || day > last) return 0;
    memcpy(text, at, 8);
    *size = 8;
    at += 8, length -= 8;
    if (fold == M3_DATE_COLUMN) return length == 0;
  }
  if (length < 6 || number(at, 2, 23) < 0 || number(at + 2, 2, 59) < 0 || number(at + 4, 2, 59) < 0) return 0;
  memcpy(text + *size, at, 6);
  *size += 6;
  at += 6, length -= 6;
  size_t fraction = length ? length - 1 : 0;
  if ((length && *at != '.') || length == 1 || fraction > 6 || number(at + 1, (int)fraction, 999999) < 0) return 0;
  memcpy(text + *size, ".000000", 7);
  if (fraction) memcpy(text + *size + 1, at + 1, fraction);
  *size += 7;
  return 1;
}

static int64_t binary(const uint8_t *at, uint32_t reader) {
  uint32_t low = (uint32_t)at[0] | (uint32_t)at[1] << 8;
  if (reader == M3_US) return low;
  if (reader == M3_SS) return (int16_t)low;
  low |= (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
  return reader == M3_UL ? (int64_t)low : (int64_t)(int32_t)low;
}

/* The first value as its column has it; texts are kept in `text`. */
static int fold(struct span s, uint32_t how, struct m3_value *to, char *text) {
  to->kind = M3_NULL;
  strip(&s);
  if (s.at == s.end) return 1;
  if (how == M3_INTEGER_COLUMN) {
    to->kind = M3_INTEGER;
    return integer(s, &to->integer);
  }
  to->kind = M3_TEXT;
  to->bytes = text;
  return fold_moment(s, how, text, &to->size);
}

/* The values of one element, separated by commas, and the first of them folded; `some` tells whether there are any. */
static int values(const struct m3_step *step, struct span s, struct out *o, struct m3_value *folded, char *text, int *some) {
  uint32_t reader = step->reader;
  folded->kind = M3_NULL;
  *some = 0;
  if (reader >= M3_US) {
    size_t width = reader <= M3_SS ? 2 : 4, length = (size_t)(s.end - s.at);
    if (length % width) return 0;
    if (length && step->fold == M3_INTEGER_COLUMN) {
      folded->kind = M3_INTEGER;
      folded->integer = binary(s.at, reader);
    }
    for (; s.at < s.end; s.at += width) {
      if ((*some && !put(o, ",", 1)) || !put_integer(o, binary(s.at, reader))) return 0;
      *some = 1;
    }
    return 1;
  }
  int coded = reader != M3_STRINGS && reader != M3_STRING;
  if (coded) strip(&s);
  else strip_right(&s);
  if (s.at == s.end) return 1;
  for (int first = 1;; first = 0) {
    struct span one = {s.at, s.end};
    if (reader != M3_STRING) {
      const uint8_t *next = memchr(s.at, '\\', (size_t)(s.end - s.at));
      /* a character set may have something else in that place */
      if (next && !coded) return 0;
      if (next) one.end = next;
    }
    const uint8_t *stop = one.end;
    if (coded) strip(&one);
    if (first && step->fold != M3_NO_COLUMN && !fold(one, step->fold, folded, text)) return 0;
    if (!first && !put(o, ",", 1)) return 0;
    int64_t value;
    if (one.at == one.end) {
      if (!put_text(o, "null")) return 0;
    } else if (reader == M3_INTEGERS) {
      if (!integer(one, &value) || !put_integer(o, value)) return 0;
    } else if (reader == M3_DECIMALS) {
      if (!put_decimal(o, one)) return 0;
    } else if (!put_string(o, one, coded)) return 0;
    *some = 1;
    if (stop == s.end) return 1;
    s.at = stop + 1;
  }
}

/* {"vr":"IS","Value":[1]}, or without Value */
static int entry(const struct m3_step *step, struct span raw, struct out *o, struct m3_value *folded, char *text, int *some) {
  if (!put(o, "{\"vr\":\"", 7) || !put(o, step->vr, 2) || !put(o, "\"", 1)) return 0;
  uint8_t *before = o->at;
  if (!put(o, ",\"Value\":[", 10) || !values(step, raw, o, folded, text, some)) return 0;
  if (!*some) o->at = before;
  return put_text(o, *some ? "]}" : "}");
}

static int put_row(const struct m3_pattern *p, struct m3_followed *f) {
  struct out o = {f->row, f->row + sizeof f->row};
  for (uint32_t i = 0; i < p->piece_count; i++) {
    const struct m3_piece *piece = &p->pieces[i];
    if (piece->step >= 0 && f->steps[piece->step].empty && !piece->always) continue;
    if (!put(&o, piece->text, piece->size)) return 0;
    if (piece->step == ITS_UID && !put(&o, f->uid, f->uid_size)) return 0;
    if (piece->step >= 0) {
      uint32_t step = (uint32_t)piece->step;
      if (!put(&o, f->json + f->steps[step].at, f->steps[step].size) || !put(&o, ",", 1)) return 0;
    }
  }
  o.at[-1] = '}'; /* in place of a comma */
  f->row_size = (uint32_t)(o.at - f->row);
  return 1;
}

int m3_follow_head(const struct m3_pattern *p, const uint8_t *data, size_t size, struct m3_followed *f) {
  size_t reach = size < p->reach ? size : p->reach, at = 0;
  struct out o = {f->json, f->json + sizeof f->json};
  if (p->step_count > M3_MOST_STEPS) return 0;
  for (uint32_t i = 0; i < p->step_count; i++) {
    const struct m3_step *step = &p->steps[i];
    uint32_t known = p->explicit_vr ? 6 : 4, length;
    if (reach - at < (size_t)step->run_size + 8 || memcmp(data + at, step->run, step->run_size)) return 0;
    at += step->run_size;
    if (memcmp(data + at, step->begins, known)) return 0;
    length = (uint32_t)data[at + known] | (uint32_t)data[at + known + 1] << 8;
    if (!p->explicit_vr) length |= (uint32_t)data[at + 6] << 16 | (uint32_t)data[at + 7] << 24;
    at += 8;
    if (length > step->limit || length > reach - at) return 0;
    struct span raw = {data + at, data + at + length};
    at += length;
    if (!put(&o, step->text, step->text_size)) return 0;
    uint8_t *begun = o.at;
    int some;
    if (!entry(step, raw, &o, &f->steps[i].folded, f->steps[i].text, &some)) return 0;
    f->steps[i].at = (uint32_t)(begun - f->json);
    f->steps[i].size = (uint32_t)(o.at - begun);
    f->steps[i].empty = !some;
    if (i == p->uid_step) {
      strip(&raw);
      f->uid = raw.at;
      f->uid_size = (uint32_t)(raw.end - raw.at);
    }
  }
  if (reach - at < p->run_size || memcmp(data + at, p->run, p->run_size)) return 0;
  at += p->run_size;
  if (!put(&o, p->text, p->text_size)) return 0;
  f->place = (uint32_t)at;
  f->json_size = (uint32_t)(o.at - f->json);
  return put_row(p, f);
}

int m3_follow(const struct m3_pattern *p, const uint8_t *data, size_t size, struct m3_followed *f) {
  return m3_follow_head(p, data, size, f) && size - f->place == p->pixels;
}
