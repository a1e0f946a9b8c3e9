/* The threads that forward. */
#ifndef EDGE_CREW_H
#define EDGE_CREW_H

#include <sys/types.h>

#include "forwarder.h"

struct worker;

/* A public and an internal socket, served by one thread. */
struct pair {
    int public_fd;
    int internal_fd;
    int cpu; /* where the thread of this number runs; -1: anywhere */
};

struct crew {
    struct forwarder *forwarder;
    struct worker *workers;
    struct pair *pairs;
    unsigned worker_count; /* 0: not running */
    unsigned pair_count;
    int stop_fd; /* an eventfd that all threads poll, and none reads */
    atomic_bool stopping;
    pid_t pid; /* after a fork the threads are the parent's alone */
};

/* Start threads for copies of these sockets; pair i is thread i % threads'. Returns 0 or an errno,
   and then nothing runs. */
int crew_start(struct crew *crew, struct forwarder *f, const struct pair *pairs,
               unsigned pair_count, unsigned threads);
/* Stop and join them, which takes no longer than a tick and the batches in hand; may be repeated. */
void crew_stop(struct crew *crew);

#endif
