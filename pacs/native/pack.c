/* Small texts in zlib's format (RFC 1950, RFC 1951), for the metadata of one instance: one block with the fixed codes.

   zlib's own tables are larger than such a text, and making them ready costs more than it does. Anybody's zlib reads the
   result. The caller gives room for the longest that can come of it, so nothing is checked within. */
#include <string.h>

#include "native.h"

enum { HASH_BITS = 12, LEAST = 4, MOST = 258, REACH = 32768 };

struct bits {
  uint8_t *at;
  uint64_t held;
  unsigned count;
};

static void put(struct bits *out, uint32_t value, unsigned count) {
  out->held |= (uint64_t)value << out->count;
  out->count += count;
  if (out->count >= 32) {
    for (unsigned byte = 0; byte < 4; byte++) out->at[byte] = (uint8_t)(out->held >> 8 * byte);
    out->at += 4;
    out->held >>= 32;
    out->count -= 32;
  }
}

/* A code of up to 8 bits the other way round: RFC 1951 3.1.1 has codes begin with their highest bit. */
static uint32_t reversed(uint32_t code, unsigned count) {
  static const uint8_t half[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};
  return (uint32_t)(half[code & 15] << 4 | half[code >> 4 & 15]) >> (8 - count);
}

/* RFC 1951 3.2.6 */
static void literal(struct bits *out, uint32_t symbol) {
  if (symbol < 144) put(out, reversed(0x30 + symbol, 8), 8);
  else if (symbol < 256) put(out, reversed(symbol, 8) << 1 | 1, 9); /* 110010000 and on: 256 + symbol */
  else if (symbol < 280) put(out, reversed(symbol - 256, 7), 7);
  else put(out, reversed(0xC0 + symbol - 280, 8), 8);
}

static unsigned log2_of(uint32_t value) { return 31u - (unsigned)__builtin_clz(value); }

/* RFC 1951 3.2.5 */
static void match(struct bits *out, uint32_t length, uint32_t distance) {
  uint32_t l = length - 3, d = distance - 1;
  if (length == MOST) literal(out, 285);
  else if (l < 8) literal(out, 257 + l);
  else {
    unsigned n = log2_of(l);
    literal(out, 257 + 4 * (n - 1) + (l >> (n - 2) & 3));
    put(out, l & ((1u << (n - 2)) - 1), n - 2);
  }
  if (d < 4) put(out, reversed(d, 5), 5);
  else {
    unsigned n = log2_of(d);
    put(out, reversed(2 * n + (d >> (n - 1) & 1), 5), 5);
    put(out, d & ((1u << (n - 1)) - 1), n - 1);
  }
}

static uint32_t read32(const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

static uint32_t adler32(const uint8_t *text, size_t size) {
  uint32_t a = 1, b = 0;
  while (size) {
    size_t run = size < 5552 ? size : 5552; /* so many cannot overflow */
    size -= run;
    for (; run; run--) b += a += *text++;
    a %= 65521;
    b %= 65521;
  }
  return b << 16 | a;
}

/* How many bytes `text` takes packed, now in `out`; 0 where `room` is less than the most that could come of it. */
size_t m3_pack(const uint8_t *text, size_t size, uint8_t *out, size_t room) {
  uint32_t seen[1 << HASH_BITS]; /* where a hash was seen last, plus one */
  if (size > UINT32_MAX / 2 || room < size + size / 8 + 16) return 0;
  memset(seen, 0, sizeof seen);
  struct bits bits = {out + 2, 0, 0};
  out[0] = 0x78;
  out[1] = 0x01;
  put(&bits, 1 | 1 << 1, 3); /* the last block, fixed codes */
  size_t at = 0;
  while (at < size) {
    if (at + LEAST <= size) {
      uint32_t here = read32(text + at), *slot = &seen[here * 2654435761u >> (32 - HASH_BITS)];
      size_t before = *slot;
      *slot = (uint32_t)at + 1;
      if (before && at + 1 - before <= REACH && read32(text + before - 1) == here) {
        size_t from = before - 1, length = LEAST;
        size_t most = size - at < MOST ? size - at : MOST;
        while (length < most && text[from + length] == text[at + length]) length++;
        match(&bits, (uint32_t)length, (uint32_t)(at - from));
        for (size_t end = at + length; ++at < end;) /* what the match covers may begin others */
          if (at + LEAST <= size && (at & 1)) seen[read32(text + at) * 2654435761u >> (32 - HASH_BITS)] = (uint32_t)at + 1;
        continue;
      }
    }
    literal(&bits, text[at++]);
  }
  literal(&bits, 256);
  for (unsigned left = bits.count + 7; left >= 8; left -= 8, bits.held >>= 8) *bits.at++ = (uint8_t)bits.held;
  uint32_t check = adler32(text, size);
  for (int shift = 24; shift >= 0; shift -= 8) *bits.at++ = (uint8_t)(check >> shift);
  return (size_t)(bits.at - out);
}
