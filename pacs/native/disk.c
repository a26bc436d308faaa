/* Writes past the page cache that go on while their caller does something else (io_submit(2) with O_DIRECT).

   The memory has to stay as it is until m3_write_end has told how the write went. One write at a time in each context. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "native.h"

#if defined(__linux__)
#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef RWF_DSYNC
#define RWF_DSYNC 2
#endif

/* A context for one write at a time: 0, or minus an error number. */
int m3_write_open(uint64_t *context) {
  aio_context_t made = 0;
  if (syscall(SYS_io_setup, 1, &made)) return -errno;
  *context = made;
  return 0;
}

/* Begin to write, durably: 0, or minus an error number, and then nothing is under way. */
int m3_write_begin(uint64_t context, int fd, const void *from, size_t count, int64_t at) {
  struct iocb block, *blocks = &block;
  memset(&block, 0, sizeof block);
  block.aio_lio_opcode = IOCB_CMD_PWRITE;
  block.aio_fildes = (uint32_t)fd;
  block.aio_buf = (uint64_t)(uintptr_t)from;
  block.aio_nbytes = count;
  block.aio_offset = at;
  block.aio_rw_flags = RWF_DSYNC;
  long begun = syscall(SYS_io_submit, (aio_context_t)context, 1, &blocks);
  return begun == 1 ? 0 : begun < 0 ? -errno : -EAGAIN;
}

/* Wait for what was begun: how many bytes are on the disk, or minus an error number. */
int64_t m3_write_end(uint64_t context) {
  struct io_event event;
  for (;;) {
    long ended = syscall(SYS_io_getevents, (aio_context_t)context, 1, 1, &event, NULL);
    if (ended == 1) return event.res;
    if (ended < 0 && errno != EINTR) return -errno;
  }
}

#else

int m3_write_open(uint64_t *context) {
  (void)context;
  return -ENOSYS;
}

int m3_write_begin(uint64_t context, int fd, const void *from, size_t count, int64_t at) {
  (void)context, (void)fd, (void)from, (void)count, (void)at;
  return -ENOSYS;
}

int64_t m3_write_end(uint64_t context) {
  (void)context;
  return -ENOSYS;
}

#endif
