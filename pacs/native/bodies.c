/* What a body of parts goes through on its way in: where a part ends, and its bytes to where they stay, hashed on the way. */
#define _GNU_SOURCE
#include <string.h>

#include "native.h"

enum { LANES = 32, AT_ONCE = 2 * LANES, PIECE = 32 << 10 };

typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef uint64_t words __attribute__((vector_size(LANES)));

#define INLINE static inline __attribute__((always_inline))

#define LOADED(name, from) \
  bytes name;              \
  memcpy(&name, from, LANES)

/* The first occurrence in data[0..size), or -1: looked for where its first, middle and last byte are. */
INLINE int64_t search(const uint8_t *data, size_t size, const uint8_t *what, size_t length) {
  size_t middle = length / 2, last = length - 1, at = 0;
  bytes first = {0}, second = {0}, third = {0};
  first += what[0], second += what[middle], third += what[last];
  for (; at + AT_ONCE + last <= size; at += AT_ONCE) {
    LOADED(a, data + at);
    LOADED(b, data + at + middle);
    LOADED(c, data + at + last);
    LOADED(d, data + at + LANES);
    LOADED(e, data + at + LANES + middle);
    LOADED(f, data + at + LANES + last);
    words found = (words)(((a == first) & (b == second) & (c == third)) | ((d == first) & (e == second) & (f == third)));
    if (!(found[0] | found[1] | found[2] | found[3])) continue;
    for (size_t i = at; i < at + AT_ONCE; i++)
      if (data[i] == what[0] && data[i + last] == what[last] && !memcmp(data + i, what, length)) return (int64_t)i;
  }
  const uint8_t *rest = at < size ? memmem(data + at, size - at, what, length) : NULL;
  return rest ? rest - data : -1;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static int64_t search_avx2(const uint8_t *data, size_t size, const uint8_t *what, size_t length) {
  return search(data, size, what, length);
}
#endif

int64_t m3_find(const uint8_t *data, size_t size, const uint8_t *what, size_t length) {
  if (!length) return 0;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return search_avx2(data, size, what, length);
#endif
  return search(data, size, what, length);
}

void m3_hash_copy(struct m3_hash *h, uint8_t *to, const uint8_t *from, size_t size) {
  for (size_t count; size; to += count, from += count, size -= count) {
    count = size < PIECE ? size : PIECE;
    memcpy(to, from, count);
    m3_hash_feed(h, to, count); /* while it is in the nearest cache */
  }
}
