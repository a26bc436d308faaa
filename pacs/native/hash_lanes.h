/* LANES inputs of BLAKE3 side by side: each vector has one word of every input. hash.c includes this for each number of
   lanes; LANES_ONLY says for which machines it is compiled. */
#define NAMED(name, lanes) name##_##lanes
#define NAME_OF(name, lanes) NAMED(name, lanes)
#define NAME(name) NAME_OF(name, LANES)
#define WORDS NAME(words)

typedef uint32_t WORDS __attribute__((vector_size(4 * LANES)));

#if LANES == 8
#define LOW 0, 8, 1, 9, 4, 12, 5, 13
#define HIGH 2, 10, 3, 11, 6, 14, 7, 15
#define LOW_PAIRS 0, 1, 8, 9, 4, 5, 12, 13
#define HIGH_PAIRS 2, 3, 10, 11, 6, 7, 14, 15
#else
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#define LOW_PAIRS 0, 1, 4, 5
#define HIGH_PAIRS 2, 3, 6, 7
#endif
#if LANES == 8 /* which finds that by itself, and spoils it if it is told */
typedef uint8_t octets_8 __attribute__((vector_size(32)));
#define TURN_16(x) (WORDS)SHUFFLED(octets_8, x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, \
                                   18, 19, 16, 17, 22, 23, 20, 21, 26, 27, 24, 25, 30, 31, 28, 29)
#define TURN_8(x) (WORDS)SHUFFLED(octets_8, x, x, 1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12, \
                                  17, 18, 19, 16, 21, 22, 23, 20, 25, 26, 27, 24, 29, 30, 31, 28)
#else
#define TURN_16(x) SHIFTED(x, 16)
#define TURN_8(x) SHIFTED(x, 8)
#endif

/* Four words of four inputs, or of two times four side by side: from one vector for each input to one for each word, and
   from these back. */
INLINE LANES_ONLY void NAME(turn)(WORDS r0, WORDS r1, WORDS r2, WORDS r3, WORDS out[4]) {
  WORDS a = SHUFFLED(WORDS, r0, r1, LOW), b = SHUFFLED(WORDS, r2, r3, LOW);
  WORDS c = SHUFFLED(WORDS, r0, r1, HIGH), d = SHUFFLED(WORDS, r2, r3, HIGH);
  out[0] = SHUFFLED(WORDS, a, b, LOW_PAIRS), out[1] = SHUFFLED(WORDS, a, b, HIGH_PAIRS);
  out[2] = SHUFFLED(WORDS, c, d, LOW_PAIRS), out[3] = SHUFFLED(WORDS, c, d, HIGH_PAIRS);
}

/* Four words of an input and, where there are eight, of the fourth one behind it. */
INLINE LANES_ONLY WORDS NAME(load)(const uint8_t *data, size_t stride) {
  words_4 one;
  memcpy(&one, data, sizeof one);
  one = LITTLE(one);
#if LANES == 8
  words_4 other;
  memcpy(&other, data + 4 * stride, sizeof other);
  return BOTH(one, other);
#else
  (void)stride;
  return one;
#endif
}

INLINE LANES_ONLY void NAME(store)(WORDS words, uint8_t *out) {
  words = LITTLE(words);
  memcpy(out, &words, 16);
#if LANES == 8
  memcpy(out + 4 * 32, (const uint8_t *)&words + 16, 16);
#endif
}

INLINE LANES_ONLY void NAME(gather)(const uint8_t *data, size_t stride, WORDS m[4]) {
  NAME(turn)(NAME(load)(data, stride), NAME(load)(data + stride, stride), NAME(load)(data + 2 * stride, stride),
             NAME(load)(data + 3 * stride, stride), m);
}

INLINE LANES_ONLY void NAME(spread)(const WORDS h[4], uint8_t *out) {
  WORDS rows[4];
  NAME(turn)(h[0], h[1], h[2], h[3], rows);
  NAME(store)(rows[0], out), NAME(store)(rows[1], out + 32), NAME(store)(rows[2], out + 64), NAME(store)(rows[3], out + 96);
}

/* The chaining values of LANES inputs of `size` bytes in whole blocks, which begin `stride` bytes apart: one behind the
   other, also in the place of the inputs where each is one block. Their counters begin with `counter`, `step` apart. */
static LANES_ONLY void NAME(side_by_side)(const uint8_t *data, size_t stride, size_t size, uint64_t counter, uint32_t step,
                                     uint32_t first, uint32_t last, uint8_t *out) {
  WORDS h[8], m[16], far, zero = {0}, counter_low, counter_high;
  for (uint32_t lane = 0; lane < LANES; lane++) {
    counter_low[lane] = (uint32_t)(counter + lane * step);
    counter_high[lane] = (uint32_t)((counter + lane * step) >> 32);
  }
  for (int i = 0; i < 8; i++) h[i] = zero + IV[i];
  for (size_t at = 0; at < size; at += BLOCK) {
    uint32_t flags = (at ? 0 : first) | (at + BLOCK < size ? 0 : last);
    const uint8_t *block = data + at;
    for (size_t lane = 0; lane < LANES; lane++) AHEAD(block + lane * stride, LANES * stride);
    NAME(gather)(block, stride, m), NAME(gather)(block + 16, stride, m + 4);
    NAME(gather)(block + 32, stride, m + 8), NAME(gather)(block + 48, stride, m + 12);
    WORDS v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
    WORDS v8 = zero + IV[0], v9 = zero + IV[1], v10 = zero + IV[2], v11 = zero + IV[3];
    WORDS v12 = counter_low, v13 = counter_high, v14 = zero + BLOCK, v15 = zero + flags;
    ROUNDS
    h[0] = v0 ^ v8, h[1] = v1 ^ v9, h[2] = v2 ^ v10, h[3] = v3 ^ v11;
    h[4] = v4 ^ v12, h[5] = v5 ^ v13, h[6] = v6 ^ v14, h[7] = v7 ^ v15;
  }
  NAME(spread)(h, out), NAME(spread)(h + 4, out + 16);
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
