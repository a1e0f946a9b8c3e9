/* Batches of datagrams in and out: recvmmsg and sendmmsg over memory that is set up once. */
#ifndef EDGE_BATCH_H
#define EDGE_BATCH_H

#include "forwarder.h"

#define BATCH 64
#define OUTBOX (2 * BATCH) /* a datagram goes to an owner and a challenger */

/* Received datagrams. Each lies behind `headroom` bytes, where an SPP header may go. */
struct inbox {
    unsigned headroom;
    unsigned count;
    struct mmsghdr headers[BATCH];
    struct iovec vectors[BATCH];
    union socket_address sources[BATCH];
    _Alignas(64) uint8_t buffers[BATCH][(PATH_BYTES + MAX_DATAGRAM + 63) / 64 * 64];
};

/* Datagrams to send, as references to where they were received. */
struct outbox {
    unsigned count;
    struct mmsghdr headers[OUTBOX];
    struct iovec vectors[OUTBOX][2];
    union socket_address targets[OUTBOX];
    size_t payloads[OUTBOX]; /* bytes without SPP header */
    bool inwards[OUTBOX];
};

void inbox_open(struct inbox *inbox, unsigned headroom);
/* Receive what is there; sets and returns `count`. Errors are counted. */
unsigned inbox_receive(struct inbox *inbox, int fd, struct forwarder *f, struct tally *tally);

void outbox_open(struct outbox *outbox);
/* Add a datagram, of `path` (or NULL) and payload. The caller sees that there is room. */
void outbox_add(struct outbox *outbox, const union socket_address *to, socklen_t to_bytes,
                const uint8_t *path, const uint8_t *payload, size_t length, bool inwards);
/* Send all of it and count what became of it. */
void outbox_send(struct outbox *outbox, int fd, struct forwarder *f, struct tally *tally);

/* Have ICMP errors reported by the socket; false with errno. */
bool watch_errors(int fd, int family);
/* Take and count the errors that wait; returns whether there were any. */
bool drain_errors(int fd, struct forwarder *f, struct tally *tally);

#endif
