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

/* BLAKE3 with 256 bits (hash.c). */
struct m3_hash {
  uint32_t stack[54 * 8]; /* chaining values of whole subtrees */
  uint64_t chunks;        /* how many whole chunks have been taken in */
  uint32_t held;          /* bytes of the chunk under way */
  uint8_t chunk[1024];
};
M3_API void m3_hash_begin(struct m3_hash *h);
M3_API void m3_hash_feed(struct m3_hash *h, const uint8_t *data, size_t size);
M3_API void m3_hash_end(const struct m3_hash *h, uint8_t out[32]); /* of all so far; more may follow */

/* Whose turn it is to write to the index: one thread of one process (join.c). */
M3_API int m3_turn_open(int fd, uint64_t *turn);      /* of a lock file that is open; 0, or minus an error number */
M3_API int m3_turn_take(uint64_t turn, int wait);     /* 1: the caller's now; 0: another's, unless one waits; or minus an error number */
M3_API void m3_turn_give(uint64_t turn);              /* by the thread that took it */
M3_API void m3_turn_close(uint64_t turn);             /* the file stays open */

/* What SQLite is told (join.c). */
enum m3_kind { M3_NULL = 0, M3_INTEGER = 1, M3_REAL = 2, M3_TEXT = 3, M3_BLOB = 4 };
struct m3_value {
  uint32_t kind, size; /* size: of text or blob, in bytes */
  union {
    int64_t integer;
    double real;
    const void *bytes;
  };
};

enum m3_joined {
  M3_JOINED = 0,  /* committed */
  M3_UNUSUAL = 1, /* for Python to judge; nothing is written in the index, the object's write has ended well */
  M3_UNWRITTEN = 2, /* the object's write came to `wrote`, which is not `length`; nothing is written in the index */
  M3_UNJOINED = 3 /* SQLite failed; nothing is written in the index, the object's write has ended well */
};

/* An instance that joins its series: pacs/filing.py `join` says when it may. */
struct m3_joining {
  const struct m3_value *lookup; /* the parameters of the look-up, in its order */
  uint32_t lookup_count;
  struct m3_value *columns; /* the parameters of the insert, in its order: those named below are set by m3_join */
  uint32_t column_count;
  uint32_t series_row, series_instances, study_row, study_instances, last; /* places in `columns` */
  struct m3_value scope, patient_id, issuer; /* what the study has to have */
  struct m3_value sop_class;                 /* text: the study's row has to name it */
  double at;                                 /* of the arrival, in Unix seconds */
  uint64_t write;                            /* the context of a write under way (disk.c), 0: none */
  int64_t length;                            /* of that write */
  int64_t wrote;                             /* what m3_write_end gave */
};
M3_API int m3_joiner_open(const void *const *sqlite, const char *path, const char *vfs, const char *setup,
                          const char *lookup, const char *insert, uint64_t turn, uint64_t *joiner);
M3_API int m3_join(uint64_t joiner, struct m3_joining *arrival); /* m3_joined; from any thread */
M3_API void m3_joiner_close(uint64_t joiner);

struct vfs; /* SQLite's sqlite3_vfs */
M3_API int m3_log_register(struct vfs *(*find)(const char *), int (*add)(struct vfs *, int));

#endif
