/* BLAKE3 with 256 bits (https://github.com/BLAKE3-team/BLAKE3-specs), for data that comes in large pieces.

   Chunks are taken in eight at a time, side by side in vectors, and so are the parents above them: the chaining values of
   up to LEAVES chunks wait until there are many. The tree of any input is the one that comes of pairing from the left,
   level by level, so what waits may be paired at any time, but for the last pair: it is another one if it is the root. */
#include <string.h>

#include "native.h"

enum { CHUNK = 1024, BLOCK = 64, GROUP = 8, LEAVES = M3_HASH_LEAVES };
enum { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8 };

static const uint32_t IV[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                               0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

/* Little-endian words, also of vectors, to those of this machine and back. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LITTLE(x) ((x) >> 24 | ((x) >> 8 & 0xFF00) | ((x) & 0xFF00) << 8 | (x) << 24)
#else
#define LITTLE(x) (x)
#endif

/* Seven rounds: which words of the message each of them takes, in its order. */
#define ROUNDS(R)                                                \
  R(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)        \
  R(2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)        \
  R(3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1)        \
  R(10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6)        \
  R(12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4)        \
  R(9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7)        \
  R(11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13)

/* Four mixings that do not depend on each other, a step of each at a time; `m` is the message, TURN_n turns right. */
#define MIX(a0, b0, c0, d0, a1, b1, c1, d1, a2, b2, c2, d2, a3, b3, c3, d3, x0, x1, x2, x3, TURN_D, TURN_B) \
  a0 += m[x0], a1 += m[x1], a2 += m[x2], a3 += m[x3];                                                       \
  a0 += b0, a1 += b1, a2 += b2, a3 += b3;                                                                   \
  d0 ^= a0, d1 ^= a1, d2 ^= a2, d3 ^= a3;                                                                   \
  d0 = TURN_D(d0), d1 = TURN_D(d1), d2 = TURN_D(d2), d3 = TURN_D(d3);                                       \
  c0 += d0, c1 += d1, c2 += d2, c3 += d3;                                                                   \
  b0 ^= c0, b1 ^= c1, b2 ^= c2, b3 ^= c3;                                                                   \
  b0 = TURN_B(b0), b1 = TURN_B(b1), b2 = TURN_B(b2), b3 = TURN_B(b3);
#define COLUMNS v0, v4, v8, v12, v1, v5, v9, v13, v2, v6, v10, v14, v3, v7, v11, v15
#define DIAGONALS v0, v5, v10, v15, v1, v6, v11, v12, v2, v7, v8, v13, v3, v4, v9, v14
#define MIXED(...) MIX(__VA_ARGS__)
#define ROUND(m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15) \
  MIXED(COLUMNS, m0, m2, m4, m6, TURN_16, TURN_12)                                  \
  MIXED(COLUMNS, m1, m3, m5, m7, TURN_8, TURN_7)                                    \
  MIXED(DIAGONALS, m8, m10, m12, m14, TURN_16, TURN_12)                             \
  MIXED(DIAGONALS, m9, m11, m13, m15, TURN_8, TURN_7)

#define SHIFTED(x, bits) ((x) >> (bits) | (x) << (32 - (bits)))
#define TURN_16(x) SHIFTED(x, 16)
#define TURN_12(x) SHIFTED(x, 12)
#define TURN_8(x) SHIFTED(x, 8)
#define TURN_7(x) SHIFTED(x, 7)

/* One block: the chaining value `h` becomes the next one. */
static void compress(uint32_t h[8], const uint32_t m[16], uint64_t counter, uint32_t length, uint32_t flags) {
  uint32_t v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
  uint32_t v8 = IV[0], v9 = IV[1], v10 = IV[2], v11 = IV[3];
  uint32_t v12 = (uint32_t)counter, v13 = (uint32_t)(counter >> 32), v14 = length, v15 = flags;
  ROUNDS(ROUND)
  h[0] = v0 ^ v8, h[1] = v1 ^ v9, h[2] = v2 ^ v10, h[3] = v3 ^ v11;
  h[4] = v4 ^ v12, h[5] = v5 ^ v13, h[6] = v6 ^ v14, h[7] = v7 ^ v15;
}

#undef TURN_16
#undef TURN_8
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLED(type, x, y, ...) __builtin_shufflevector((type)(x), (type)(y), __VA_ARGS__)
#define BOTH(x, y) __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7)
#else
#define SHUFFLED(type, x, y, ...) __builtin_shuffle((type)(x), (type)(y), (type){__VA_ARGS__})
#define BOTH(x, y) ((words_8){x[0], x[1], x[2], x[3], y[0], y[1], y[2], y[3]})
#endif

#define INLINE static inline __attribute__((always_inline))
#define LANES 4
#define LANES_ONLY
#include "hash_lanes.h"

#if defined(__x86_64__)
#define LANES 8
#define LANES_ONLY __attribute__((target("avx2")))
#include "hash_lanes.h"
#endif

/* Of one chunk of up to 1024 bytes; `root`: ROOT, where it is all there is, or 0. */
static void whole_chunk(const uint8_t *data, size_t size, uint64_t counter, uint32_t root, uint32_t out[8]) {
  memcpy(out, IV, sizeof IV);
  for (uint32_t flags = CHUNK_START;; flags = 0) {
    uint32_t m[16] = {0};
    size_t length = size < BLOCK ? size : BLOCK;
    memcpy(m, data, length);
    for (int i = 0; i < 16; i++) m[i] = LITTLE(m[i]);
    if (size <= BLOCK) flags |= CHUNK_END | root;
    compress(out, m, counter, (uint32_t)length, flags);
    if (size <= BLOCK) return;
    data += BLOCK;
    size -= BLOCK;
  }
}

static void parent(const uint32_t pair[16], uint32_t root, uint32_t out[8]) {
  uint32_t m[16];
  memcpy(m, pair, sizeof m);
  memcpy(out, IV, sizeof IV);
  compress(out, m, 0, BLOCK, PARENT | root);
}

/* Of GROUP whole chunks, one behind the other. */
static void whole_group(uint32_t lanes, const uint8_t *data, uint64_t counter, uint32_t *out) {
#if defined(__x86_64__)
  if (lanes == 8) {
    chunks_8(data, counter, out);
    return;
  }
#endif
  (void)lanes;
  chunks_4(data, counter, out);
  chunks_4(data + 4 * CHUNK, counter + 4, out + 4 * 8);
}

/* The next level in place of `count` chaining values; how many it has. There is room for a multiple of 16. */
static uint32_t next_level(uint32_t lanes, uint32_t *values, uint32_t count) {
  uint32_t pairs = count / 2, odd[8];
  if (count % 2) memcpy(odd, values + (count - 1) * 8, sizeof odd);
  for (uint32_t at = 0; at < pairs; at += lanes) {
    const uint32_t *from = values + at * 16;
    uint32_t *to = values + at * 8;
    if (pairs - at == 1) parent(from, 0, to);
#if defined(__x86_64__)
    else if (lanes == 8) parents_8(from, to);
#endif
    else parents_4(from, to);
  }
  if (count % 2) memcpy(values + pairs * 8, odd, sizeof odd);
  return pairs + count % 2;
}

/* All that wait go to the stack as one, and it is joined with those of its size: more follows, so none is the root. */
static void stack_up(struct m3_hash *h) {
  uint64_t before = (h->chunks - LEAVES) / LEAVES;
  uint32_t *top = h->stack + h->depth++ * 8;
  for (uint32_t count = LEAVES; count > 1;) count = next_level(h->lanes, h->leaves, count);
  h->waiting = 0;
  memcpy(top, h->leaves, 8 * sizeof *top);
  for (; before & 1; before >>= 1, h->depth--, top -= 8) parent(top - 8, 0, top - 8);
}

static void take_in(struct m3_hash *h, const uint8_t *group) {
  if (h->waiting == LEAVES) stack_up(h);
  whole_group(h->lanes, group, h->chunks, h->leaves + h->waiting * 8);
  h->waiting += GROUP;
  h->chunks += GROUP;
}

void m3_hash_begin(struct m3_hash *h) {
  h->chunks = 0;
  h->held = h->waiting = h->depth = 0;
  h->lanes = 4;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) h->lanes = 8;
#endif
}

void m3_hash_feed(struct m3_hash *h, const uint8_t *data, size_t size) {
  if (h->held) {
    size_t count = sizeof h->rest - h->held;
    if (count > size) count = size;
    memcpy(h->rest + h->held, data, count);
    h->held += (uint32_t)count;
    if (h->held < sizeof h->rest) return;
    take_in(h, h->rest);
    h->held = 0;
    data += count;
    size -= count;
  }
  for (; size >= sizeof h->rest; data += sizeof h->rest, size -= sizeof h->rest) take_in(h, data);
  if (size) memcpy(h->rest, data, size);
  h->held = (uint32_t)size;
}

/* What is left of fewer than GROUP chunks. */
static void take_in_rest(struct m3_hash *h, const uint8_t *rest, uint32_t held) {
  uint32_t at = 0;
  if (h->waiting == LEAVES) stack_up(h);
  if (held >= 3 * CHUNK) { /* there is room for all: what is made of no chunk is written over or not looked at */
    whole_group(h->lanes, rest, h->chunks, h->leaves + h->waiting * 8);
    at = held / CHUNK;
  }
  for (; at * CHUNK < held; at++) {
    uint32_t size = held - at * CHUNK < CHUNK ? held - at * CHUNK : CHUNK;
    whole_chunk(rest + at * CHUNK, size, h->chunks + at, 0, h->leaves + (h->waiting + at) * 8);
  }
  h->waiting += at;
}

void m3_hash_end(const struct m3_hash *h, uint8_t out[32]) {
  uint32_t found[16];
  if (!h->chunks && h->held <= CHUNK) whole_chunk(h->rest, h->held, 0, ROOT, found);
  else {
    struct m3_hash last; /* more may follow what is in `h` */
    memcpy(&last, h, offsetof(struct m3_hash, rest));
    if (h->held) take_in_rest(&last, h->rest, h->held);
    while (last.waiting > 2) last.waiting = next_level(last.lanes, last.leaves, last.waiting);
    if (last.waiting == 2) parent(last.leaves, last.depth ? 0 : ROOT, last.leaves);
    memcpy(found, last.leaves, 32);
    while (last.depth) {
      memcpy(found + 8, found, 32);
      memcpy(found, last.stack + --last.depth * 8, 32);
      parent(found, last.depth ? 0 : ROOT, found);
    }
  }
  for (int i = 0; i < 8; i++) found[i] = LITTLE(found[i]);
  memcpy(out, found, 32);
}
