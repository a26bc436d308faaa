/* BLAKE3 with 256 bits (https://github.com/BLAKE3-team/BLAKE3-specs), for data that come in large pieces.

   Chunks are taken in eight at a time, side by side in vectors (hash_lanes.h), and so are the parents above them: the
   chaining values of LEAVES chunks wait until there are so many. The tree of BLAKE3 is the one that comes of pairing from
   the left, level by level, what is odd being taken along. The last pair of all is another one: it is the root. So nothing
   is paired before more has come than would be paired. */
#include <string.h>

#include "native.h"

enum { CHUNK = 1024, BLOCK = 64, VALUE = 32, GROUP = 8, LEAVES = M3_HASH_LEAVES };
enum { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8 };

static const uint32_t IV[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                               0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

/* Four mixings that do not depend on each other, step by step. `m` is the message, TURN_n(x) is x turned right by n bits.
   That needs seventeen vectors, and AVX2 has sixteen: so one of them, c0, is kept in memory, and compilers are made to
   forget what they have read of the message (else they keep that, and something that is needed sooner in memory). */
#define MIX(a0, b0, c0, d0, a1, b1, c1, d1, a2, b2, c2, d2, a3, b3, c3, d3, m0, m1, m2, m3, TURN_D, TURN_B) \
  a0 += m[m0], a1 += m[m1], a2 += m[m2], a3 += m[m3];                                                       \
  a0 += b0, a1 += b1, a2 += b2, a3 += b3;                                                                   \
  d0 ^= a0, d1 ^= a1, d2 ^= a2, d3 ^= a3;                                                                   \
  d0 = TURN_D(d0), d1 = TURN_D(d1), d2 = TURN_D(d2), d3 = TURN_D(d3);                                       \
  far = c0 + d0, c0 = far;                                                                                  \
  KEEP_IN_MEMORY(c0);                                                                                       \
  b0 ^= far;                                                                                                \
  c1 += d1, c2 += d2, c3 += d3;                                                                             \
  b1 ^= c1, b2 ^= c2, b3 ^= c3;                                                                             \
  b0 = TURN_B(b0), b1 = TURN_B(b1), b2 = TURN_B(b2), b3 = TURN_B(b3);                                       \
  FORGET(c0, m);
#define KEEP_IN_MEMORY(x) __asm__ volatile("" : : "m"(x))
#define FORGET(x, m) __asm__ volatile("" : "+m"(x), "+m"(m))
#define MIXED(...) MIX(__VA_ARGS__)
#define COLUMNS v3, v7, v11, v15, v0, v4, v8, v12, v1, v5, v9, v13, v2, v6, v10, v14
#define DIAGONALS v1, v6, v11, v12, v2, v7, v8, v13, v3, v4, v9, v14, v0, v5, v10, v15
#define ROUND(m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15) \
  MIXED(COLUMNS, m6, m0, m2, m4, TURN_16, TURN_12)                                  \
  MIXED(COLUMNS, m7, m1, m3, m5, TURN_8, TURN_7)                                    \
  MIXED(DIAGONALS, m10, m12, m14, m8, TURN_16, TURN_12)                             \
  MIXED(DIAGONALS, m11, m13, m15, m9, TURN_8, TURN_7)
#define ROUNDS                                                \
  ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) \
  ROUND(2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8) \
  ROUND(3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1) \
  ROUND(10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6) \
  ROUND(12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4) \
  ROUND(9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7) \
  ROUND(11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13)

#define SHIFTED(x, bits) ((x) >> (bits) | (x) << (32 - (bits)))
#define TURN_16(x) SHIFTED(x, 16)
#define TURN_12(x) SHIFTED(x, 12)
#define TURN_8(x) SHIFTED(x, 8)
#define TURN_7(x) SHIFTED(x, 7)

/* Little-endian words, also of vectors, to those of this machine and back. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LITTLE(x) ((x) >> 24 | ((x) >> 8 & 0xFF00) | ((x) & 0xFF00) << 8 | (x) << 24)
#else
#define LITTLE(x) (x)
#endif

/* The chaining value of one input: a chunk of up to 1024 bytes, or a pair of chaining values. `first` and `last` are the
   flags of its first and its last block. */
static void alone(const uint8_t *data, size_t size, uint64_t counter, uint32_t first, uint32_t last, uint8_t out[VALUE]) {
  uint32_t h[8];
  memcpy(h, IV, sizeof h);
  for (uint32_t flags = first;; flags = 0) {
    uint32_t m[16] = {0}, length = size < BLOCK ? (uint32_t)size : BLOCK, far;
    memcpy(m, data, length);
    for (int i = 0; i < 16; i++) m[i] = LITTLE(m[i]);
    size -= length;
    data += length;
    uint32_t v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
    uint32_t v8 = IV[0], v9 = IV[1], v10 = IV[2], v11 = IV[3];
    uint32_t v12 = (uint32_t)counter, v13 = (uint32_t)(counter >> 32), v14 = length, v15 = size ? flags : flags | last;
    ROUNDS
    h[0] = v0 ^ v8, h[1] = v1 ^ v9, h[2] = v2 ^ v10, h[3] = v3 ^ v11;
    h[4] = v4 ^ v12, h[5] = v5 ^ v13, h[6] = v6 ^ v14, h[7] = v7 ^ v15;
    if (!size) break;
  }
  for (int i = 0; i < 8; i++) h[i] = LITTLE(h[i]);
  memcpy(out, h, VALUE);
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
#define AHEAD(from, bytes) __builtin_prefetch((const void *)((uintptr_t)(from) + (bytes))) /* also past what there is */
#define INLINE static inline __attribute__((always_inline))

#define LANES 4
#define LANES_ONLY
#include "hash_lanes.h"

#if defined(__x86_64__)
#define LANES 8
#define LANES_ONLY __attribute__((target("avx2")))
#include "hash_lanes.h"
#define SIDE_BY_SIDE(lanes, ...) (lanes == 8 ? side_by_side_8(__VA_ARGS__) : side_by_side_4(__VA_ARGS__))
#else
#define SIDE_BY_SIDE(lanes, ...) side_by_side_4(__VA_ARGS__)
#endif

/* The chaining values of GROUP whole chunks. */
static void group(uint32_t lanes, const uint8_t *data, uint64_t counter, uint8_t *out) {
  for (uint32_t at = 0; at < GROUP; at += lanes)
    SIDE_BY_SIDE(lanes, data + at * CHUNK, CHUNK, CHUNK, counter + at, 1, CHUNK_START, CHUNK_END, out + at * VALUE);
}

static void parent(const uint8_t *pair, uint32_t root, uint8_t out[VALUE]) {
  alone(pair, 2 * VALUE, 0, PARENT, root, out);
}

/* The next level of the tree in the place of `count` chaining values; how many it has. There is room for whole groups. */
static uint32_t next_level(uint32_t lanes, uint8_t *values, uint32_t count) {
  uint32_t pairs = count / 2;
  uint8_t odd[VALUE];
  if (count % 2) memcpy(odd, values + (count - 1) * VALUE, VALUE);
  for (uint32_t at = 0; at < pairs; at += lanes) {
    const uint8_t *from = values + at * 2 * VALUE;
    uint8_t *to = values + at * VALUE;
    if (pairs - at == 1) parent(from, 0, to);
    else SIDE_BY_SIDE(lanes, from, 2 * VALUE, 2 * VALUE, 0, 0, PARENT, 0, to);
  }
  if (count % 2) memcpy(values + pairs * VALUE, odd, VALUE);
  return pairs + count % 2;
}

/* What waits goes to the stack as one, and is joined there with what is as large: more follows, so none is the root. */
static void stack_up(struct m3_hash *h) {
  uint64_t before = (h->chunks - LEAVES) / LEAVES;
  uint8_t *top = h->stack + h->depth++ * VALUE;
  for (uint32_t count = LEAVES; count > 1;) count = next_level(h->lanes, h->leaves, count);
  h->waiting = 0;
  memcpy(top, h->leaves, VALUE);
  for (; before & 1; before >>= 1, h->depth--, top -= VALUE) parent(top - VALUE, 0, top - VALUE);
}

static void take_in(struct m3_hash *h, const uint8_t *data) {
  if (h->waiting == LEAVES) stack_up(h);
  group(h->lanes, data, h->chunks, h->leaves + h->waiting * VALUE);
  h->waiting += GROUP;
  h->chunks += GROUP;
}

/* What is left behind all groups, of `size` bytes in the room of one. */
static void take_in_last(struct m3_hash *h, const uint8_t *data, uint32_t size) {
  uint32_t at = 0;
  if (h->waiting == LEAVES) stack_up(h);
  uint8_t *out = h->leaves + h->waiting * VALUE;
  if (size >= 2 * CHUNK) { /* what comes of no whole chunk is not looked at */
    group(h->lanes, data, h->chunks, out);
    at = size / CHUNK;
  }
  for (; at * CHUNK < size; at++) {
    uint32_t left = size - at * CHUNK;
    alone(data + at * CHUNK, left < CHUNK ? left : CHUNK, h->chunks + at, CHUNK_START, CHUNK_END, out + at * VALUE);
  }
  h->waiting += at;
}

void m3_hash_begin(struct m3_hash *h) {
  h->chunks = 0;
  h->held = h->waiting = h->depth = 0;
#if defined(__AVX2__)
  h->lanes = 8;
#elif defined(__x86_64__)
  h->lanes = __builtin_cpu_supports("avx2") ? 8 : 4;
#else
  h->lanes = 4;
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

void m3_hash_end(const struct m3_hash *h, uint8_t out[32]) {
  if (!h->chunks && h->held <= CHUNK) {
    alone(h->rest, h->held, 0, CHUNK_START, CHUNK_END | ROOT, out);
    return;
  }
  struct m3_hash last; /* more may follow in `h` */
  memcpy(&last, h, offsetof(struct m3_hash, rest));
  if (h->held) take_in_last(&last, h->rest, h->held);
  while (last.waiting > 2) last.waiting = next_level(last.lanes, last.leaves, last.waiting);
  if (last.waiting == 2) parent(last.leaves, last.depth ? 0 : ROOT, last.leaves);
  while (last.depth) {
    memcpy(last.leaves + VALUE, last.leaves, VALUE);
    memcpy(last.leaves, last.stack + --last.depth * VALUE, VALUE);
    parent(last.leaves, last.depth ? 0 : ROOT, last.leaves);
  }
  memcpy(out, last.leaves, VALUE);
}
