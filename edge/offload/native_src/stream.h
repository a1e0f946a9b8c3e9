/* One session's media while it is lent to the offload.
 *
 * What is usual is done here: the packet that is next in order, from a source that is known, on the
 * path that is in use. Everything else is left as it is for Python, which takes the counters back
 * first (see edge/webrtc/offload.py). */
#ifndef EDGE_STREAM_H
#define EDGE_STREAM_H

#include "srtp.h"

enum {
    PATH_BYTES = 38, /* the header of Simple Proxy Protocol */
    MAX_ENDPOINT_BYTES = 28,
    RTP_HEADER_BYTES = 12,
    MAX_HEADER_BYTES = 64, /* a longer one is not lent */
    MAX_PACKET_BYTES = 2048,
};

#define MAX_INDEX (((uint64_t)1 << 48) - 1)

struct incoming {
    bool lent;
    struct srtp srtp;
    uint32_t ssrc;
    uint8_t payload_type;
    uint64_t next; /* 48 bits, as are all indexes */
    double clock_rate, jitter, heard_at;
    int64_t timestamp; /* of the last packet; -1: none */
    uint64_t octets;
};

struct outgoing {
    bool lent;
    struct srtp srtp;
    uint8_t header[MAX_HEADER_BYTES]; /* as in the next packet, but for three fields */
    size_t header_bytes;
    uint32_t ssrc, first_timestamp, timestamp;
    uint64_t next, limit;
    uint64_t packets, octets;
    double sent_at;
};

struct stream {
    struct stream *next; /* in its bucket of the table */
    bool listed;
    uint8_t path[PATH_BYTES];
    uint8_t endpoint[MAX_ENDPOINT_BYTES];
    struct incoming incoming;
    struct outgoing outgoing;
};

/* A packet that `stream_place` found to be the next one. */
struct place {
    size_t header_bytes, payload_bytes;
    uint32_t timestamp;
};

/* Whether an SRTP packet is the next in order; it is not yet known to be authentic. */
bool stream_place(const struct stream *stream, const uint8_t *packet, size_t size,
                  struct place *place);

/* Read its payload and count it; false, and nothing has changed, if it is not authentic. */
bool stream_receive(struct stream *stream, const uint8_t *packet, size_t size,
                    const struct place *place, uint8_t *payload, double now);

/* Write the next SRTP packet, with the path in front; returns its size, 0 if that must not be. */
size_t stream_send(struct stream *stream, uint8_t *packet, const uint8_t *payload,
                   size_t payload_bytes, uint64_t timestamp, bool marker, double now);

#endif
