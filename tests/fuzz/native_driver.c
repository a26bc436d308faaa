/* Drives pacs/native with what no honest peer sends, under AddressSanitizer and UndefinedBehaviorSanitizer.

       native_driver SEED COUNT

   Every buffer is of its own on the heap and exactly as long as it is said to be, so that a byte too far is found.
   Streams of PDUs are made with lengths that fit and are then spoilt; they come from memory, and now and then through a
   socket. Data sets are those of native_stores.c. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "native_driver.h"

static uint64_t state;

uint32_t any(uint32_t below) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return below ? (uint32_t)(state >> 16) % below : 0;
}

void holds(int so, const char *what) {
  if (so) return;
  fprintf(stderr, "BROKEN: %s\n", what);
  abort();
}

uint8_t *memory(size_t size) {
  uint8_t *found = malloc(size ? size : 1);
  holds(found != NULL, "memory");
  return found;
}

uint32_t put32(uint8_t *at, uint32_t value) {
  for (int byte = 0; byte < 4; byte++) at[byte] = (uint8_t)(value >> (24 - 8 * byte));
  return 4;
}

/* A stream of PDUs, most of them sound, of at most `room` bytes (128 or more). */
static uint32_t stream(uint8_t *out, uint32_t room) {
  uint32_t size = 0, command = 1;
  while (size + 64 < room && any(12)) {
    uint8_t *pdu = out + size;
    uint32_t length = 0, left = room - size - 12;
    pdu[0] = any(40) ? 4 : (uint8_t)any(9);
    pdu[1] = 0;
    do {
      uint32_t value = any(any(4) ? 60 : left), last = any(2) ? 2 : 0;
      if (value + 6 > left) value = left < 6 ? 0 : left - 6;
      if (left < 6) break;
      uint8_t *pdv = pdu + 6 + length;
      put32(pdv, value + 2);
      pdv[4] = any(30) ? 1 : (uint8_t)any(256);
      pdv[5] = (uint8_t)(last | (any(30) ? command : any(4)));
      for (uint32_t at = 0; at < value; at++) pdv[6 + at] = (uint8_t)at;
      if (last) command = !command;
      length += value + 6;
      left -= value + 6;
    } while (!any(3));
    put32(pdu + 2, length);
    size += length + 6;
  }
  for (uint32_t spoilt = any(3) ? 0 : 1 + any(4); size && spoilt; spoilt--) {
    uint32_t at = any(any(2) ? size : size < 40 ? size : 40);
    if (any(3)) out[at] = (uint8_t)any(256);
    else for (uint32_t end = at + 4; at < end && at < size; at++) out[at] = any(2) ? 0xFF : 0;
  }
  if (size && !any(4)) size -= any(size);
  return size;
}

static void wire(void) {
  uint32_t room = 128 + any(any(8) ? 2000 : 40000);
  uint8_t *sent = memory(room);
  uint32_t size = stream(sent, room);
  int pair[2] = {-1, -1}, through_socket = !any(16) && size < 30000;
  struct m3_wire w;
  struct m3_patience patience = {5, 5, 30, 1};
  memset(&w, 0, sizeof w);
  w.max_pdu = any(3) ? 1u << 18 : any(300);
  if (through_socket) {
    holds(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    holds(write(pair[1], sent, size) == (ssize_t)size, "write");
    close(pair[1]);
    w.fd = pair[0];
    w.size = 16 + any(300);
    w.buffer = memory(w.size);
  } else { /* all of it has come, and nothing else will */
    w.fd = -1;
    w.start = any(3);
    w.size = w.start + size > 16 ? w.start + size : 16;
    w.buffer = memory(w.size);
    memcpy(w.buffer + w.start, sent, size);
    w.end = w.start + size;
  }
  uint64_t got = 0;
  for (int outcome = M3_DONE; outcome == M3_DONE;) {
    size_t place = any(2) ? 2048 : any(70);
    uint8_t *command = memory(place);
    w.context = w.last = w.piece_left = 0;
    outcome = m3_command(&w, &patience, 5, command, place);
    holds(w.filled <= place && w.start <= w.end && w.end <= w.size, "bounds after a command set");
    holds(w.pdu_left <= w.max_pdu && w.piece_left <= w.max_pdu, "what is left of a PDU");
    got += w.filled;
    free(command);
    if (outcome != M3_DONE) break;
    holds(w.context != 0 && !w.piece_left, "a command set that is whole");
    w.piece_left = w.last = 0;
    uint32_t context = w.context;
    do {
      place = 1 + any(any(2) ? 100 : 5000);
      uint8_t *data = memory(place);
      outcome = m3_dataset(&w, &patience, context, data, place);
      holds(w.filled <= place && w.start <= w.end && w.end <= w.size, "bounds after a data set");
      holds(w.pdu_left <= w.max_pdu && w.piece_left <= w.max_pdu, "what is left of a PDU");
      holds(outcome != M3_MORE || (w.filled == place && w.piece_left), "more is there where it is said");
      holds(outcome != M3_DONE || !w.piece_left, "a data set that is whole");
      got += w.filled;
      free(data);
    } while (outcome == M3_MORE);
  }
  holds(got <= size, "no more comes out than went in");
  if (through_socket) close(pair[0]);
  free(w.buffer);
  free(sent);
}

static void pack(void) {
  size_t size = any(any(8) ? 4000 : 70000), room = size + size / 8 + 16;
  uint8_t *text = memory(size), *out = memory(room);
  uint32_t letters = 1 + any(any(2) ? 4 : 256);
  for (size_t at = 0; at < size; at++) text[at] = at && any(40) == 0 ? text[any((uint32_t)at)] : (uint8_t)any(letters);
  size_t packed = m3_pack(text, size, out, room);
  holds(packed >= 8 && packed <= room, "a packed text fits");
  holds(m3_pack(text, size, out, size + size / 8 + 15) == 0, "a room too small is refused");
  free(text);
  free(out);
}

/* The digest of a text is the same whatever the pieces, how many chunks go side by side, and who asked for it before. */
static void hash(void) {
  size_t size = any(8) ? any(20000) : any(300000);
  uint8_t *text = memory(size), *whole = memory(32), *found = memory(32);
  struct m3_hash *one = (struct m3_hash *)memory(sizeof *one), *other = (struct m3_hash *)memory(sizeof *other);
  for (size_t at = 0; at < size; at++) text[at] = (uint8_t)any(256);
  m3_hash_begin(one);
  m3_hash_feed(one, text, size);
  m3_hash_end(one, whole);
  m3_hash_begin(other);
  if (any(2)) other->lanes = 4;
  for (size_t at = 0, next; at < size; at += next) {
    next = 1 + any(any(2) ? 1500 : 70000);
    if (next > size - at) next = size - at;
    uint8_t *piece = memory(next);
    memcpy(piece, text + at, next);
    m3_hash_feed(other, piece, next);
    free(piece);
    if (!any(8)) m3_hash_end(other, found);
  }
  m3_hash_end(other, found);
  holds(!memcmp(whole, found, 32), "one digest");
  free(text);
  free(whole);
  free(found);
  free(one);
  free(other);
}

int main(int count, char **words) {
  if (count != 3) return 2;
  state = strtoull(words[1], NULL, 10) * 2654435761u + 88172645463325252u;
  uint64_t inputs = strtoull(words[2], NULL, 10);
  for (uint64_t at = 0; at < inputs; at++) {
    uint32_t which = any(18);
    if (which < 8) wire();
    else if (which < 12) follow();
    else if (which < 14) express();
    else if (which < 16) inflow();
    else if (which < 17) pack();
    else hash();
  }
  holds(inputs < 1000 || (followed && stored && flowed && odd), "data sets of every kind");
  printf("%llu inputs: %llu data sets followed, %llu stored one by one, %llu in bodies, %llu not\n", (unsigned long long)inputs,
         (unsigned long long)followed, (unsigned long long)stored, (unsigned long long)flowed, (unsigned long long)odd);
  return 0;
}
