/* What Python calls, and the one structure that both know (pacs/native/__init__.py has the same). No allocation anywhere. */
#ifndef M3_NATIVE_H
#define M3_NATIVE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define M3_API __attribute__((visibility("default")))
#else
#define M3_API
#endif

/* Raised whenever a structure or a function below changes its shape. */
#define M3_ABI 4

enum m3_outcome {
  M3_DONE = 0,    /* the last fragment has come whole */
  M3_MORE = 1,    /* the room is full, or enough has come; more will follow */
  M3_ODD = 2,     /* what follows is for others to judge: nothing of it has been taken */
  M3_CLOSED = 3,  /* the peer closed the connection */
  M3_STALLED = 4, /* the deadline is over, or less comes than the minimum rate */
  M3_FAILED = 5   /* the socket failed */
};

/* One connection, between two calls. What came and was not taken yet is buffer[start..end). */
struct m3_wire {
  uint8_t *buffer;
  double deadline; /* CLOCK_MONOTONIC, in seconds */
  double waited;   /* for the peer, since the minimum rate was looked at last */
  uint64_t received;
  uint64_t filled;     /* bytes that the last call put in its place */
  int32_t fd;          /* -1: nothing more comes */
  uint32_t size;       /* of the buffer */
  uint32_t start, end; /* in the buffer */
  uint32_t max_pdu;    /* longest P-DATA-TF that was offered */
  uint32_t pdu_left;   /* of the PDU under way: what is no part of a fragment that was begun */
  uint32_t piece_left; /* of the fragment under way */
  uint32_t context;    /* of the fragment under way */
  uint32_t last;       /* whether it is the last one of its command set or data set */
};

/* How patient one is with a peer (seconds, bytes a second). */
struct m3_patience {
  double silence, pdu, window, rate;
};

M3_API uint32_t m3_abi(void);
M3_API int m3_command(struct m3_wire *w, const struct m3_patience *p, double wait, uint8_t *out, size_t room);
M3_API int m3_dataset(struct m3_wire *w, const struct m3_patience *p, uint32_t context, uint8_t *out, size_t room);
M3_API size_t m3_pack(const uint8_t *text, size_t size, uint8_t *out, size_t room);
M3_API int m3_write_open(uint64_t *context);
M3_API int m3_write_begin(uint64_t context, int fd, const void *from, size_t count, int64_t at);
M3_API int64_t m3_write_end(uint64_t context);

struct vfs; /* SQLite's sqlite3_vfs */
M3_API int m3_log_register(struct vfs *(*find)(const char *), int (*add)(struct vfs *, int));

#endif
