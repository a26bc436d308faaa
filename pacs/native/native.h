/* What Python calls, and the structures that both know (pacs/native/__init__.py and pacs/native/structures.py have the same). */
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
#define M3_ABI 5

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

/* BLAKE3 with 256 bits (hash.c). Any sizes may be fed; multiples of 8 kB are read where they are, the rest is copied. */
enum { M3_HASH_LEAVES = 128 };
struct m3_hash {
  uint64_t chunks;                         /* how many have been taken in, in eights */
  uint32_t held;                           /* bytes in `rest` */
  uint32_t lanes;                          /* how many chunks side by side: 8 or 4, as m3_hash_begin finds it */
  uint32_t waiting, depth;                 /* chaining values in `leaves` and in `stack` */
  uint8_t stack[47 * 32];                  /* chaining values of whole subtrees of at least M3_HASH_LEAVES chunks */
  uint8_t leaves[M3_HASH_LEAVES * 32];     /* of chunks that wait for being joined */
  uint8_t rest[8 * 1024];                  /* of what was fed: fewer than eight chunks */
};
M3_API void m3_hash_begin(struct m3_hash *h);
M3_API void m3_hash_feed(struct m3_hash *h, const uint8_t *data, size_t size);
M3_API void m3_hash_end(const struct m3_hash *h, uint8_t out[32]); /* of all so far; more may follow */

/* Bodies of parts (bodies.c): where `what` is in the data, or -1; and bytes fed to a hash on their way from one place to another. */
M3_API int64_t m3_find(const uint8_t *data, size_t size, const uint8_t *what, size_t length);
M3_API void m3_hash_copy(struct m3_hash *h, uint8_t *to, const uint8_t *from, size_t size);

/* Whose turn it is to write to the index: one thread of one process (turn.c). */
M3_API int m3_turn_open(int fd, uint64_t *turn);      /* of a lock file that is open; 0, or minus an error number */
M3_API int m3_turn_take(uint64_t turn, int wait);     /* 1: the caller's now; 0: another's, unless one waits; or minus an error number, also EINTR */
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
int m3_join_all(uint64_t joiner, struct m3_joining *arrivals, uint32_t count, uint8_t *outcomes); /* the same, in one transaction; none is being written */
M3_API void m3_joiner_close(uint64_t joiner); /* what comes later is M3_UNUSUAL */

/* What data sets that follow a pattern are like (pacs/dicom/repeats.py), and what comes of one (follow.c). */
enum m3_reader { M3_CODES = 0, M3_STRINGS, M3_STRING, M3_INTEGERS, M3_DECIMALS, M3_US, M3_SS, M3_UL, M3_SL };
enum m3_fold { M3_NO_COLUMN = 0, M3_INTEGER_COLUMN, M3_DATE_COLUMN, M3_TIME_COLUMN, M3_DATETIME_COLUMN };

struct m3_step {      /* a run of elements that stay as they are, and behind it one that does not */
  const uint8_t *run; /* as it is in the data set */
  const uint8_t *text; /* the JSON up to the value of the element behind it */
  uint32_t run_size, text_size;
  uint32_t limit;  /* longest value */
  uint32_t column; /* its place among the columns of the insert */
  uint8_t begins[6]; /* of the element: tag and, where it is written, VR */
  uint8_t reader, fold;
  char vr[2];
};

struct m3_piece { /* of an instance's row */
  const uint8_t *text; /* to be written first */
  uint32_t size;
  int32_t step; /* whose entry follows; -1: none, -2: the SOP Instance UID */
  uint32_t always; /* whether the member is there without a value */
};

struct m3_pattern {
  const struct m3_step *steps;
  const struct m3_piece *pieces;
  const uint8_t *run, *text; /* the last run with the header of the pixel data; the JSON to its end */
  uint32_t step_count, piece_count, run_size, text_size;
  uint32_t explicit_vr;
  uint32_t reach;   /* of the data set: no header is longer */
  uint32_t uid_step; /* which element is the SOP Instance UID */
  uint32_t pixels;  /* their length: they end the data set */
};

enum { M3_MOST_STEPS = 64, M3_TEXT_ROOM = 64 << 10, M3_PACKED_ROOM = M3_TEXT_ROOM + M3_TEXT_ROOM / 8 + 16 };

struct m3_followed {
  uint32_t json_size, row_size, place, uid_size; /* `place`: where the pixel data begin */
  const uint8_t *uid;                            /* in the data set */
  struct {
    uint32_t at, size; /* its entry, in `json` */
    uint32_t empty;
    struct m3_value folded;
    char text[24]; /* what `folded` refers to */
  } steps[M3_MOST_STEPS];
  uint8_t json[M3_TEXT_ROOM], row[M3_TEXT_ROOM / 8];
};
M3_API int m3_follow(const struct m3_pattern *p, const uint8_t *data, size_t size, struct m3_followed *out); /* 1: it does */
int m3_follow_head(const struct m3_pattern *p, const uint8_t *data, size_t size, struct m3_followed *out); /* 1: up to the pixel data it does */

/* What instances alike have in common (pacs/likeness.py), and what is told of one (record.c). */
struct m3_alike {
  const struct m3_pattern *pattern;
  const uint8_t *before, *behind, *facts; /* of the head: around the SOP Instance UID, and the facts up to the time */
  const uint8_t *suffix;                  /* what is hashed after the data set */
  const uint8_t *bulk_before, *bulk_behind; /* around the place of the pixel data */
  uint32_t before_size, behind_size, facts_size, suffix_size, bulk_before_size, bulk_behind_size;
  uint32_t frames_size, frames_at;
  uint8_t frames_like[32];
  uint32_t uids[3], times[3]; /* places in the columns: of the SOP Instance UID, and of the time of arrival */
  uint32_t row, digest, key, offset, length, json, bulk, frames;
  uint32_t lookup_uids[4]; /* places of the SOP Instance UID in the look-up, as many as are not UINT32_MAX */
  struct m3_value *lookup; /* that of `joining`, to be written to */
  struct m3_joining joining;
};

struct m3_strip { /* blocks of a segment, for one writer (pacs/storage/strips.py) */
  uint64_t at, end; /* where the next record may begin, and what is beyond */
  uint8_t nonce[16];
  int32_t fd; /* past the page cache */
  uint32_t redo; /* whether its records are filed again where a crash takes their rows */
  struct m3_value name; /* the key of the objects in it */
};

struct m3_told {
  double at; /* of the arrival, in Unix seconds */
  struct m3_value key; /* of the object */
  uint64_t offset, length, blocks; /* of the object, and of its record in whole blocks */
  uint32_t packed, bulk_size;
  char hex[64], bulk[256];
  uint8_t frames[32];
};

enum { M3_RECORD_HEADER = 88 /* pacs/storage/records.py */, M3_RESERVE = 1024 /* pacs/storage/arrival.py */, M3_UID_ROOM = 64 };

int m3_plain_uid(const uint8_t *uid, size_t size);
uint64_t m3_blocks(uint64_t size);
int m3_record(const struct m3_alike *a, const struct m3_followed *f, struct m3_hash *hash, const struct m3_strip *strip,
              uint8_t *memory, uint64_t size, uint8_t *packed, struct m3_told *told);
void m3_tell(const struct m3_alike *a, const struct m3_followed *f, const uint8_t *packed, const struct m3_told *told,
             struct m3_value *columns, struct m3_value *lookup);

/* One association that stores instances alike (express.c). */
enum m3_stage { M3_TO_FILE = 1, M3_TO_FOLLOW = 2 };
enum m3_passage {
  M3_STORED = 0,  /* one instance: committed and answered */
  M3_NOTHING = 1, /* nothing has come for a second */
  M3_BEFORE = 2,  /* no command set like the others: `outcome` of m3_command, and what it gave */
  M3_WITHIN = 3,  /* the data set is in the memory as far as `outcome` of m3_dataset says: Python goes on from there */
  M3_STRIP = 4    /* the strip is used up: to be called again with another one */
};

struct m3_express {
  struct m3_wire *wire;
  const struct m3_patience *patience;
  struct m3_alike *alike;
  struct m3_followed *followed;
  uint8_t *packed; /* M3_PACKED_ROOM */
  uint8_t *memory; /* whole blocks: the record's header, the object's head, the data set */
  uint64_t room;   /* for a data set */
  uint64_t size;   /* of the data set */

  uint8_t *command; /* what m3_command fills */
  const uint8_t *like; /* the command set that others are like */
  uint32_t command_room, like_size, number_at, uid_at, uid_room, context;
  uint8_t *reply; /* the response, whose number and SOP Instance UID are put in */
  uint32_t reply_size, reply_number_at, reply_uid_at, unsent;

  struct m3_strip strip;
  uint64_t write;      /* a context of disk.c */
  uint64_t erase_size; /* of the record at `strip` that was written in vain */
  uint64_t joiner;

  uint32_t stage; /* 0: for a message; or what is to be done with the one that has come: an m3_stage */
  uint32_t spell_ms, pause_ms; /* for how long it goes on by itself, and how long a pause ends that (0: after each one) */
  uint32_t hashed; /* whether `hash` is of the data set alone, as far as it has come */
  int32_t outcome, joined;
  volatile uint32_t busy; /* whether a message is under way */
  uint64_t stored;
  struct m3_hash hash;
};
M3_API int m3_express(struct m3_express *x);
M3_API void m3_sizes(uint64_t out[6]);

/* One body of parts that are instances alike (inflow.c): taken until one is not, stored, and joined together later. */
enum m3_flow {
  M3_QUIET = 0,  /* for `patience_ms` nothing came */
  M3_TURN = 1,   /* between two parts: `until` is over, or `most` bytes have come */
  M3_OTHER = 2,  /* the part that begins is not like the others: what came of it is in the staging */
  M3_UNLIKE = 3, /* it is not, as its end shows: its File Meta is in `meta_now`, its data set in the memory, the rest in the staging */
  M3_NEXT = 4,   /* a delimiter has come, and what follows is not the head of a part like the others: it is in the staging */
  M3_ROOM = 5,   /* no room for another one in the strip: to be called again with another one */
  M3_FULL = 6,   /* no room in `taken`: to be called again with more */
  M3_LEFT = 7    /* the connection is closed or failed */
};
enum m3_at { M3_AT_CONTENT = 0, M3_AT_DATA = 1, M3_AT_END = 2, M3_AT_HEAD = 3 };

enum { M3_META_ROOM = 4096, M3_SLOTS = 2 };

struct m3_taken { /* one instance, stored; the next one begins `size` bytes behind it */
  uint32_t size, value_count;
  struct m3_value uid;
  double at;
  struct m3_value key;
  uint64_t offset, length, blocks;
  int64_t wrote; /* what m3_write_end gave */
  struct m3_set { /* of its columns, those that differ */
    uint32_t column;
    struct m3_value value;
  } values[];
};

struct m3_inflow {
  struct m3_alike *alike;
  struct m3_followed *followed;
  uint8_t *packed; /* M3_PACKED_ROOM */

  int32_t fd;
  uint32_t patience_ms;
  double until; /* CLOCK_MONOTONIC, in seconds */
  double waited; /* of this call */
  uint64_t came, most; /* of this call, and how many may */
  uint64_t left; /* of the body, on the connection */
  uint8_t *staging;
  uint32_t staging_room, start, end; /* what came and was not taken yet is staging[start..end) */

  const uint8_t *delimiter, *head; /* CR LF, dashes, boundary; from there to the content of a part like the others */
  uint32_t delimiter_size, head_size;
  const uint8_t *meta; /* preamble and File Meta of a part like the others; its SOP Instance UID is at `uid_at` */
  uint32_t meta_size, uid_at, uid_size;
  uint32_t meta_now_size;
  uint8_t meta_now[M3_META_ROOM];

  uint8_t *memory[M3_SLOTS]; /* as that of m3_express */
  uint64_t write[M3_SLOTS];
  struct m3_taken *under_way[M3_SLOTS];
  uint64_t room, size, total;
  uint32_t slot, stage;
  struct m3_strip strip;

  uint8_t *taken; /* where the next one goes, and how much room there is */
  uint64_t taken_room;
  uint32_t count; /* of those there since the place was given */
  struct m3_hash hash;
};
M3_API int m3_inflow(struct m3_inflow *x);
M3_API void m3_inflow_land(struct m3_inflow *x); /* wait for the writes under way */
/* Join `count` of them in one transaction: an m3_joined for each; 0, or M3_UNJOINED, or minus an error number for lack of memory. */
M3_API int m3_join_taken(uint64_t joiner, const struct m3_alike *a, const uint8_t *taken, uint32_t count, uint8_t *outcomes);

struct vfs; /* SQLite's sqlite3_vfs */
M3_API int m3_log_register(struct vfs *(*find)(const char *), int (*add)(struct vfs *, int));

#endif
