/* What the loop's threads and Python share: flows, hops, raised datagrams, counters.

   One mutex guards all of it but the counters. A thread takes it once for a whole batch, decides,
   and lets it go before it sends: it is held for some microseconds and never in a system call.
   Python holds the GIL while it waits for the mutex; that is safe, since no thread of the loop ever
   wants the GIL. */
#ifndef EDGE_FORWARDER_H
#define EDGE_FORWARDER_H

#include <pthread.h>
#include <stdatomic.h>

#include "address.h"
#include "table.h"

#define MAX_DATAGRAM 2048 /* these four as in protocol.py */
#define MAX_PAYLOAD (MAX_DATAGRAM - PATH_BYTES)
#define RAISED_BATCH 64
#define KNOWN_QUEUE 1024
#define STRANGER_QUEUE 256

enum count {
    PACKETS_IN,
    BYTES_IN,
    PACKETS_OUT,
    BYTES_OUT,
    WAKES,
    MALFORMED,
    UNKNOWN_KIND,
    UNKNOWN_SLOT,
    UNKNOWN_RELAY,
    NOT_OWNER,
    LOOP,
    UNREACHABLE,
    RATE_LIMIT,
    QUEUE_FULL,
    SEND_BLOCKED,
    SEND_ERROR,
    RECEIVE_ERROR,
    COUNTS
};

/* The names of the counts: fields of ForwarderStatistics up to `wakes`, then values of Drop. */
extern const char *const count_names[COUNTS];

/* Counted by one thread without any sharing, and added to the shared counts now and then. */
struct tally {
    uint64_t of[COUNTS];
};

/* A confirmed flow; times are in tenths of a second. One cache line. */
struct flow {
    _Alignas(64) struct entry entry;
    uint8_t key[PATH_KEY_BYTES];
    uint32_t owner;
    uint32_t challenger;
    uint32_t heard;
    uint32_t challenger_heard;
    uint32_t save_at;
};

struct hop {
    struct entry entry;
    uint32_t number; /* the key */
    struct endpoint address;
    struct endpoint public; /* of a peer */
    bool is_peer;
    int64_t group;
    union socket_address target;
    socklen_t target_bytes; /* 0: our internal sockets can not reach it */
};

/* From an address to a hop. */
struct hop_name {
    struct entry entry;
    struct endpoint key;
    uint32_t number;
};

struct raised {
    uint8_t path[PATH_BYTES];
    uint32_t sender;
    size_t length;
    uint8_t payload[];
};

struct queue {
    struct raised *items[KNOWN_QUEUE];
    unsigned size, head, count;
};

/* As `limits.TokenBucket`. */
struct bucket {
    double per_second, capacity, tokens;
    uint64_t updated; /* ns */
};

struct forwarder {
    pthread_mutex_t mutex;
    struct table flows;
    struct table hops;
    struct table by_address;
    struct table by_public;
    struct queue known;
    struct queue strangers;
    struct bucket bucket;
    bool raised_told; /* `raised_fd` is readable, or will be */
    /* Not guarded: these never change, or are atomic. */
    struct endpoint advertised;
    int public_family, internal_family;
    int raised_fd, stale_fd; /* eventfds */
    atomic_bool stale_told;
    _Atomic uint64_t counts[COUNTS];
};

bool forwarder_open(struct forwarder *f, const struct endpoint *advertised, double per_second,
                    uint32_t max_flows);
void forwarder_close(struct forwarder *f);
void forwarder_lock(struct forwarder *f);
void forwarder_unlock(struct forwarder *f);
uint64_t now_ns(void);

/* Flows and hops; the caller holds the mutex. */
struct flow *flow_find(const struct forwarder *f, const uint8_t *path, uint32_t hash);
uint32_t flow_hash(const struct forwarder *f, const uint8_t *path);
const struct hop *hop_find(const struct forwarder *f, uint32_t number);
const struct hop *hop_at(const struct forwarder *f, const struct endpoint *address);
const struct hop *peer_at(const struct forwarder *f, const struct endpoint *public);
/* `public` is NULL for a transceiver. False when memory is short; the hop is gone then. */
bool hop_set(struct forwarder *f, uint32_t number, const struct endpoint *address, int64_t group,
             const struct endpoint *public);
void hop_remove(struct forwarder *f, uint32_t number);

/* Raise a datagram; the caller holds the mutex. `wake` becomes true when Python must be told. */
enum count raise_datagram(struct forwarder *f, struct queue *queue, const uint8_t *path,
                          const uint8_t *payload, size_t length, uint32_t sender, bool *wake);
bool bucket_take(struct bucket *bucket, uint64_t now);
/* Take up to RAISED_BATCH of each queue, known first; the caller frees them. */
unsigned take_raised(struct forwarder *f, struct raised *items[2 * RAISED_BATCH]);
/* Without the mutex. */
void tell_raised(struct forwarder *f);
void tell_stale(struct forwarder *f);
/* Returns whether `tell_stale` was called since the last time. */
bool clear_stale(struct forwarder *f);
void tally_add(struct forwarder *f, struct tally *tally);

#endif
