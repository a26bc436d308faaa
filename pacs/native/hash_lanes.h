/* LANES inputs of BLAKE3 side by side: every vector has one word of each. hash.c includes this for each number of lanes;
   LANES_ONLY tells for which machines the functions are compiled. */
#define NAMED(name, lanes) name##_##lanes
#define NAME_OF(name, lanes) NAMED(name, lanes)
#define NAME(name) NAME_OF(name, LANES)
#define WORDS NAME(words)

typedef uint32_t WORDS __attribute__((vector_size(4 * LANES)));

#if LANES == 8
typedef uint8_t octets_8 __attribute__((vector_size(32)));
#define LOW 0, 8, 1, 9, 4, 12, 5, 13
#define HIGH 2, 10, 3, 11, 6, 14, 7, 15
#define LOW_PAIRS 0, 1, 8, 9, 4, 5, 12, 13
#define HIGH_PAIRS 2, 3, 10, 11, 6, 7, 14, 15
#define TURN_16(x) (WORDS)SHUFFLED(octets_8, x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, \
                                   18, 19, 16, 17, 22, 23, 20, 21, 26, 27, 24, 25, 30, 31, 28, 29)
#define TURN_8(x) (WORDS)SHUFFLED(octets_8, x, x, 1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12, \
                                  17, 18, 19, 16, 21, 22, 23, 20, 25, 26, 27, 24, 29, 30, 31, 28)
#else
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#define LOW_PAIRS 0, 1, 4, 5
#define HIGH_PAIRS 2, 3, 6, 7
#define TURN_16(x) SHIFTED(x, 16)
#define TURN_8(x) SHIFTED(x, 8)
#endif

/* Four words of each input: from vectors by input to vectors by word, and back. Eight lanes are two times four. */
INLINE LANES_ONLY void NAME(turn)(WORDS v[4]) {
  WORDS a = SHUFFLED(WORDS, v[0], v[1], LOW), b = SHUFFLED(WORDS, v[2], v[3], LOW);
  WORDS c = SHUFFLED(WORDS, v[0], v[1], HIGH), d = SHUFFLED(WORDS, v[2], v[3], HIGH);
  v[0] = SHUFFLED(WORDS, a, b, LOW_PAIRS), v[1] = SHUFFLED(WORDS, a, b, HIGH_PAIRS);
  v[2] = SHUFFLED(WORDS, c, d, LOW_PAIRS), v[3] = SHUFFLED(WORDS, c, d, HIGH_PAIRS);
}

/* A block of each of the inputs, which begin `stride` bytes apart. */
INLINE LANES_ONLY void NAME(gather)(const uint8_t *data, size_t stride, WORDS m[16]) {
  for (int quarter = 0; quarter < 4; quarter++) {
    for (int lane = 0; lane < 4; lane++) {
      const uint8_t *from = data + (size_t)lane * stride + 16 * quarter;
#if LANES == 8
      words_4 one, other;
      memcpy(&one, from, sizeof one);
      memcpy(&other, from + 4 * stride, sizeof other);
      m[4 * quarter + lane] = BOTH(one, other);
#else
      memcpy(&m[4 * quarter + lane], from, 16);
#endif
    }
    NAME(turn)(m + 4 * quarter);
  }
}

/* The chaining values of the inputs, one behind the other. */
INLINE LANES_ONLY void NAME(spread)(WORDS h[8], uint32_t *out) {
  for (int half = 0; half < 2; half++) {
    NAME(turn)(h + 4 * half);
    for (int lane = 0; lane < LANES; lane++) memcpy(out + 8 * lane + 4 * half, (const uint32_t *)&h[4 * half + lane % 4] + lane / 4 * 4, 16);
  }
}

static LANES_ONLY __attribute__((noinline)) void NAME(compress)(WORDS h[8], const WORDS m[16], const WORDS counter[2], uint32_t flags) {
  WORDS v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
  WORDS zero = {0}, v8 = zero + IV[0], v9 = zero + IV[1], v10 = zero + IV[2], v11 = zero + IV[3];
  WORDS v12 = counter[0], v13 = counter[1], v14 = zero + BLOCK, v15 = zero + flags;
  ROUNDS(ROUND)
  h[0] = v0 ^ v8, h[1] = v1 ^ v9, h[2] = v2 ^ v10, h[3] = v3 ^ v11;
  h[4] = v4 ^ v12, h[5] = v5 ^ v13, h[6] = v6 ^ v14, h[7] = v7 ^ v15;
}

INLINE LANES_ONLY void NAME(start)(WORDS h[8]) {
  for (int i = 0; i < 8; i++) h[i] = (WORDS){0} + IV[i];
}

/* Of LANES whole chunks, one behind the other. */
static LANES_ONLY void NAME(chunks)(const uint8_t *data, uint64_t first, uint32_t *out) {
  WORDS h[8], m[16], counter[2];
  for (int lane = 0; lane < LANES; lane++) {
    counter[0][lane] = (uint32_t)(first + (uint64_t)lane);
    counter[1][lane] = (uint32_t)((first + (uint64_t)lane) >> 32);
  }
  NAME(start)(h);
  for (int at = 0; at < CHUNK; at += BLOCK) {
    NAME(gather)(data + at, CHUNK, m);
    for (int i = 0; i < 16; i++) m[i] = LITTLE(m[i]);
    NAME(compress)(h, m, counter, at == 0 ? CHUNK_START : at == CHUNK - BLOCK ? CHUNK_END : 0);
  }
  NAME(spread)(h, out);
}

/* Of LANES pairs of chaining values, one behind the other; `out` may be where the pairs begin. */
static LANES_ONLY void NAME(parents)(const uint32_t *pairs, uint32_t *out) {
  WORDS h[8], m[16], counter[2] = {{0}, {0}};
  NAME(start)(h);
  NAME(gather)((const uint8_t *)pairs, BLOCK, m);
  NAME(compress)(h, m, counter, PARENT);
  NAME(spread)(h, out);
}

#undef LOW
#undef HIGH
#undef LOW_PAIRS
#undef HIGH_PAIRS
#undef TURN_16
#undef TURN_8
#undef WORDS
#undef NAME
#undef NAME_OF
#undef NAMED
#undef LANES
#undef LANES_ONLY
