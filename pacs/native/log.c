/* SQLite's write-ahead log, a transaction in one write: a VFS of SQLite's (sqlite.org/vfs.html) over its own.

   A commit of twelve pages is 24 writes of SQLite: a header of 24 bytes and a page, again and again, one behind the other.
   They are put together here and written with the last page of the transaction, which its header names: the answer to that
   write is the answer of all. Pages that leave the cache before their transaction ends cannot wait for that: whoever uses
   this has none leave (PRAGMA cache_spill=OFF), and where one does, its transaction fails, for nothing that was put
   together is ever written later than the frames behind it. Everything that is no log goes to SQLite's own VFS as if this
   were not there. What the structures are is part of SQLite's interface, which its authors keep. The memory is SQLite's,
   too: it makes room for each file as this asks (szOsFile). */
#include <stddef.h>
#include <string.h>

#include "native.h"

enum { OK = 0, ERROR = 1, IOERR = 10, OPEN_WAL = 0x80000, FRAME_HEADER = 24, FRAMES = 20, PAGE = 4096, ROOM = FRAMES * (FRAME_HEADER + PAGE) };

struct file;

struct methods {
  int version;
  int (*close)(struct file *);
  int (*read)(struct file *, void *, int, int64_t);
  int (*write)(struct file *, const void *, int, int64_t);
  int (*truncate)(struct file *, int64_t);
  int (*sync)(struct file *, int);
  int (*size)(struct file *, int64_t *);
  int (*lock)(struct file *, int);
  int (*unlock)(struct file *, int);
  int (*check_reserved_lock)(struct file *, int *);
  int (*control)(struct file *, int, void *);
  int (*sector_size)(struct file *);
  int (*characteristics)(struct file *);
};

struct file {
  const struct methods *methods;
};

typedef void (*any)(void);

struct vfs { /* version 3 */
  int version, file_bytes, path_bytes;
  struct vfs *next;
  const char *name;
  void *data;
  int (*open)(struct vfs *, const char *, struct file *, int, int *);
  any delete, access, full_path, dl_open, dl_error, dl_sym, dl_close, randomness, sleep, time, last_error, time64;
  any set_call, get_call, next_call;
};

struct log {
  struct file file;
  int64_t at;   /* where what was put together belongs */
  int64_t next; /* behind what was written last, or -1 where something else was done since */
  int filled;
  int begun;   /* a frame's header was taken, and its page not yet */
  int commits; /* the frame that was begun is the last one of its transaction */
  uint8_t held[ROOM];
};

static struct vfs *below, ours;

static struct file *real(struct file *file) { return (struct file *)((uint8_t *)file + sizeof(struct log)); }

/* Write what was put together. What cannot be written is forgotten: its transaction has failed. */
static int flush(struct log *log) {
  int count = log->filled;
  log->filled = log->begun = 0;
  struct file *to = real(&log->file);
  return to->methods->write(to, log->held, count, log->at);
}

/* Have nothing put together: there only is where a page left the cache too early, and by now it may be nobody's. */
static int forget(struct log *log) {
  int failure = log->filled ? IOERR : OK;
  log->filled = log->begun = 0;
  return failure;
}

static int write_log(struct file *file, const void *from, int count, int64_t at) {
  struct log *log = (struct log *)file;
  int ends = log->filled + count;
  if (at == log->next && count == FRAME_HEADER && !log->begun && ends + PAGE <= ROOM) {
    const uint8_t *pages = (const uint8_t *)from + 4; /* of the database, in the last frame of a transaction, else 0 */
    if (!log->filled) log->at = at;
    log->begun = 1;
    log->commits = pages[0] | pages[1] | pages[2] | pages[3];
  } else if (at == log->next && log->begun && ends <= ROOM) {
    log->begun = 0;
  } else {
    int failure = at == log->next && log->begun ? flush(log) : forget(log); /* a page too long for what is left */
    if (failure) return failure;
    struct file *to = real(file);
    log->next = count > FRAME_HEADER ? at + count : -1;
    return to->methods->write(to, from, count, at);
  }
  memcpy(log->held + log->filled, from, (size_t)count);
  log->filled = ends;
  log->next = at + count;
  return log->begun || (!log->commits && ends + FRAME_HEADER + PAGE <= ROOM) ? OK : flush(log);
}

/* The file, with nothing put together; the next frame begins with writes of its own. NULL: that was not so. */
static struct file *settled(struct file *file, int *failure) {
  struct log *log = (struct log *)file;
  *failure = forget(log);
  log->next = -1;
  return *failure ? NULL : real(file);
}

static int close_log(struct file *file) {
  int failure, closed;
  settled(file, &failure);
  closed = real(file)->methods->close(real(file));
  return failure ? failure : closed;
}

static int read_log(struct file *file, void *to, int count, int64_t at) {
  int failure;
  struct file *from = settled(file, &failure);
  return from ? from->methods->read(from, to, count, at) : failure;
}

static int truncate_log(struct file *file, int64_t size) {
  int failure;
  struct file *to = settled(file, &failure);
  return to ? to->methods->truncate(to, size) : failure;
}

static int sync_log(struct file *file, int flags) {
  int failure;
  struct file *to = settled(file, &failure);
  return to ? to->methods->sync(to, flags) : failure;
}

static int size_of_log(struct file *file, int64_t *size) {
  int failure;
  struct file *from = settled(file, &failure);
  return from ? from->methods->size(from, size) : failure;
}

static int control_log(struct file *file, int what, void *with) {
  int failure;
  struct file *to = settled(file, &failure);
  return to ? to->methods->control(to, what, with) : failure;
}

static int lock_log(struct file *file, int kind) { return real(file)->methods->lock(real(file), kind); }
static int unlock_log(struct file *file, int kind) { return real(file)->methods->unlock(real(file), kind); }
static int reserved_log(struct file *file, int *out) { return real(file)->methods->check_reserved_lock(real(file), out); }
static int sector_log(struct file *file) { return real(file)->methods->sector_size(real(file)); }
static int characteristics_log(struct file *file) { return real(file)->methods->characteristics(real(file)); }

static const struct methods log_methods = {
    1,         close_log,  read_log,     write_log,   truncate_log, sync_log,           size_of_log,
    lock_log,  unlock_log, reserved_log, control_log, sector_log,   characteristics_log};

static int open_file(struct vfs *vfs, const char *name, struct file *file, int flags, int *out) {
  (void)vfs;
  if (!(flags & OPEN_WAL)) return below->open(below, name, file, flags, out);
  struct log *log = (struct log *)file;
  memset(log, 0, offsetof(struct log, held));
  log->next = -1;
  real(file)->methods = NULL;
  int failure = below->open(below, name, real(file), flags, out);
  file->methods = real(file)->methods ? &log_methods : NULL;
  return failure;
}

/* Make the VFS "m3dicom" known to the SQLite whose functions these are: 0, or 1 where it is not one to be built upon. */
int m3_log_register(struct vfs *(*find)(const char *), int (*add)(struct vfs *, int)) {
  if (below) return OK;
  struct vfs *found = find(NULL);
  if (!found || found->version != 3) return ERROR;
  ours = *found;
  ours.next = NULL;
  ours.name = "m3dicom";
  ours.file_bytes = found->file_bytes + (int)sizeof(struct log);
  ours.open = open_file;
  if (add(&ours, 0)) return ERROR;
  below = found;
  return OK;
}
