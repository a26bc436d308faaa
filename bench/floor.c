/* What a client and the machine alone cost: a server that answers every request with the same bytes and does nothing else.

       cc -O2 -o run/floor floor.c && run/floor 18690 503 &     port, bytes of the body
       $python bench_web.py --corpus corpus --only qido_series --target name=floor,web=http://127.0.0.1:18690/dicom-web --target "$B"

   It takes one recv for one whole request, as `wrk` sends them. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static void watch(int loop, int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
}

int main(int count, char **given) {
  static char asked[1 << 16];
  int on = 1, size = count == 3 ? atoi(given[2]) : 0;
  if (size < 2) return fprintf(stderr, "usage: floor PORT BYTES\n"), 2;
  char *answer = malloc(size + 256);
  int head = snprintf(answer, 256, "HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\nContent-Length: %d\r\n\r\n", size);
  memset(answer + head, ' ', size);
  answer[head] = '[';
  answer[head + size - 1] = ']';

  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(given[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int door = socket(AF_INET, SOCK_STREAM, 0), loop = epoll_create1(0);
  setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(door, (struct sockaddr *)&at, sizeof at) || listen(door, 64)) return perror("floor"), 1;
  watch(loop, door);
  for (;;) {
    struct epoll_event events[16];
    int ready = epoll_wait(loop, events, 16, -1);
    for (int i = 0; i < ready; i++) {
      int fd = events[i].data.fd;
      if (fd == door) {
        fd = accept(door, NULL, NULL);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(loop, fd);
      } else if (recv(fd, asked, sizeof asked, MSG_DONTWAIT) <= 0 || send(fd, answer, head + size, MSG_NOSIGNAL) < 0) {
        close(fd);
      }
    }
  }
}
