/* What becomes of a datagram: the rules at the head of protocol.py. */
#ifndef EDGE_RULES_H
#define EDGE_RULES_H

#include "batch.h"

/* Where decisions go. */
struct verdicts {
    struct forwarder *forwarder;
    struct outbox *to_public;
    struct outbox *to_internal;
    struct tally *tally;
    bool wake; /* something was raised, and Python must be told */
    bool stale; /* a hop was missing */
};

/* Decide on what came in over a public or an internal socket; takes the mutex. */
void decide_public(struct verdicts *verdicts, struct inbox *inbox);
void decide_internal(struct verdicts *verdicts, struct inbox *inbox);
/* For what Python sends by itself; the caller holds the mutex. */
void decide_forward(struct verdicts *verdicts, const uint8_t *path, const uint8_t *payload,
                    size_t length, uint32_t hop);
void decide_deliver(struct verdicts *verdicts, const uint8_t *path, const uint8_t *payload,
                    size_t length);
/* Pass on what `wake` and `stale` say; without the mutex. */
void verdicts_tell(struct verdicts *verdicts);

#endif
