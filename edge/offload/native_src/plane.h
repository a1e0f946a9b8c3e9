/* The socket's side of the offload: batches of datagrams, and the streams by their paths. */
#ifndef EDGE_PLANE_H
#define EDGE_PLANE_H

#include <sys/socket.h>

#include "stream.h"

enum {
    BATCH = 128,
    ROOM = 4096,   /* a longer datagram is left out */
    ERRNOS = 134,  /* of Linux */
};

struct inbox {
    struct mmsghdr headers[BATCH];
    struct iovec vectors[BATCH];
    uint8_t endpoints[BATCH][MAX_ENDPOINT_BYTES];
    uint8_t data[BATCH][ROOM];
};

struct outbox {
    int count;
    struct mmsghdr headers[BATCH];
    struct iovec vectors[BATCH];
    uint8_t endpoints[BATCH][MAX_ENDPOINT_BYTES];
    uint8_t data[BATCH][MAX_PACKET_BYTES];
};

struct plane {
    int fd;
    socklen_t endpoint_bytes;
    bool held;
    struct inbox *inbox;
    struct outbox *outbox;
    uint64_t sent, failed[ERRNOS];
    struct stream **buckets;
    size_t bucket_count, stream_count; /* a power of two, and what it holds */
    uint64_t seed;
};

bool plane_open(struct plane *plane, int fd, socklen_t endpoint_bytes, uint64_t seed);
void plane_close(struct plane *plane);

/* Take what is there; returns how many, or -errno. */
int plane_receive(struct plane *plane);

/* The stream that a datagram of the inbox belongs to by its path and by who brought it. */
struct stream *plane_find(const struct plane *plane, int number, size_t size);

bool plane_list(struct plane *plane, struct stream *stream);
void plane_unlist(struct plane *plane, struct stream *stream);

/* Where the next datagram to be sent is written, MAX_PACKET_BYTES; then its size and receiver. */
uint8_t *plane_room(struct plane *plane);
void plane_put(struct plane *plane, size_t size, const uint8_t *endpoint);

/* Send all that was put. */
void plane_flush(struct plane *plane);

#endif
