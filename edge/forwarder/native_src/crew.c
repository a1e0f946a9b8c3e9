/* See crew.h.

   A thread waits for its sockets and then takes what is there. When packets come fast, a wake-up
   costs more than a packet: at 20,000 a second a loop that runs for each finds 1.5 of them. So from
   FAST on it sleeps for a tick of 0.6 ms whenever the sockets are empty, and then takes all that has
   come meanwhile. Below, nothing waits.

   Threads work on duplicates of the sockets. The caller may close his at any time, and the numbers
   of closed ones may be others' then. */
#include "crew.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "rules.h"

#define SECOND 1000000000ull /* ns */
#define TICK (SECOND / 1600)
#define FAST 7000 /* packets a second from which on the loop ticks */
#define SLOW 5000 /* and below which it stops to */
#define WINDOW (SECOND / 100) /* over which the rate is measured */

struct pace {
    uint64_t window_start;
    uint64_t packets; /* in the window */
    bool ticking;
};

struct worker {
    struct crew *crew;
    pthread_t thread;
    struct pollfd *waited; /* the sockets of its pairs, then `stop_fd` */
    unsigned pair_count;
    struct pace pace;
    struct tally tally;
    struct verdicts verdicts;
    struct outbox to_public, to_internal;
    struct inbox from_public, from_internal;
};

/* Waiting. */

static void pace_note(struct pace *pace, unsigned packets)
{
    uint64_t now = now_ns(), elapsed = now - pace->window_start;
    pace->packets += packets;
    if (elapsed < WINDOW)
        return;
    pace->ticking = pace->packets * SECOND / elapsed >= (pace->ticking ? SLOW : FAST);
    pace->window_start = now;
    pace->packets = 0;
}

/* Errors whose notice another call has used up would end every wait at once. */
static void take_waiting_errors(struct worker *worker)
{
    for (unsigned i = 0; i < 2 * worker->pair_count; i++) {
        if ((worker->waited[i].revents & POLLERR) != 0)
            (void)drain_errors(worker->waited[i].fd, worker->crew->forwarder, &worker->tally);
    }
}

/* `last`: how many packets the last round found. */
static void wait_for_packets(struct worker *worker, unsigned last)
{
    if (worker->pace.ticking && last > 0)
        (void)nanosleep(&(struct timespec){.tv_nsec = TICK}, NULL);
    else if (poll(worker->waited, 2 * worker->pair_count + 1, -1) > 0)
        take_waiting_errors(worker);
}

/* Forwarding. */

static void send_all(struct worker *worker, int public_fd, int internal_fd)
{
    struct forwarder *f = worker->crew->forwarder;
    outbox_send(&worker->to_internal, internal_fd, f, &worker->tally);
    outbox_send(&worker->to_public, public_fd, f, &worker->tally);
    verdicts_tell(&worker->verdicts);
}

/* Take a batch from each of two sockets; returns the greater number of packets. */
static unsigned serve_pair(struct worker *worker, int public_fd, int internal_fd,
                           unsigned *packets)
{
    struct forwarder *f = worker->crew->forwarder;
    unsigned in = inbox_receive(&worker->from_public, public_fd, f, &worker->tally);
    if (in > 0) {
        decide_public(&worker->verdicts, &worker->from_public);
        send_all(worker, public_fd, internal_fd);
    }
    unsigned out = inbox_receive(&worker->from_internal, internal_fd, f, &worker->tally);
    if (out > 0) {
        decide_internal(&worker->verdicts, &worker->from_internal);
        send_all(worker, public_fd, internal_fd);
    }
    *packets += in + out;
    return in > out ? in : out;
}

/* Returns how many packets there were; `more` tells whether a socket may hold more of them. */
static unsigned serve_pairs(struct worker *worker, bool *more)
{
    unsigned packets = 0;
    *more = false;
    for (unsigned i = 0; i < worker->pair_count; i++)
        *more |= serve_pair(worker, worker->waited[2 * i].fd, worker->waited[2 * i + 1].fd,
                            &packets) == BATCH;
    worker->tally.of[WAKES] += packets > 0;
    tally_add(worker->crew->forwarder, &worker->tally);
    pace_note(&worker->pace, packets);
    return packets;
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    unsigned packets = 0;
    bool more = false;
    prctl(PR_SET_NAME, "edge-forward");
    prctl(PR_SET_TIMERSLACK, 1); /* ns; by default sleeps last 50 us longer */
    while (!atomic_load_explicit(&worker->crew->stopping, memory_order_relaxed)) {
        if (!more)
            wait_for_packets(worker, packets);
        packets = serve_pairs(worker, &more);
    }
    return NULL;
}

/* Setting up and taking down. */

static int copy_pairs(struct crew *crew, const struct pair *pairs, unsigned count)
{
    crew->pairs = calloc(count, sizeof *pairs);
    if (crew->pairs == NULL)
        return ENOMEM;
    for (; crew->pair_count < count; crew->pair_count++) {
        struct pair *copy = &crew->pairs[crew->pair_count];
        copy->public_fd = fcntl(pairs[crew->pair_count].public_fd, F_DUPFD_CLOEXEC, 0);
        if (copy->public_fd < 0)
            return errno;
        copy->cpu = pairs[crew->pair_count].cpu;
        copy->internal_fd = fcntl(pairs[crew->pair_count].internal_fd, F_DUPFD_CLOEXEC, 0);
        if (copy->internal_fd < 0 ||
            !watch_errors(copy->internal_fd, crew->forwarder->internal_family)) {
            int error = errno;
            crew->pair_count++; /* for close_pairs */
            return error;
        }
    }
    return 0;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void close_pairs(struct crew *crew)
{
    for (unsigned i = 0; i < crew->pair_count; i++) {
        close_fd(crew->pairs[i].public_fd);
        close_fd(crew->pairs[i].internal_fd);
    }
    free(crew->pairs);
    close_fd(crew->stop_fd);
}

static bool set_up_worker(struct crew *crew, struct worker *worker, unsigned first, unsigned step)
{
    struct pollfd *next = calloc(2 * (size_t)crew->pair_count + 1, sizeof *next);
    worker->crew = crew;
    worker->waited = next;
    if (next == NULL)
        return false;
    for (unsigned i = first; i < crew->pair_count; i += step) {
        *next++ = (struct pollfd){.fd = crew->pairs[i].public_fd, .events = POLLIN};
        *next++ = (struct pollfd){.fd = crew->pairs[i].internal_fd, .events = POLLIN};
        worker->pair_count++;
    }
    *next = (struct pollfd){.fd = crew->stop_fd, .events = POLLIN};
    inbox_open(&worker->from_public, PATH_BYTES);
    inbox_open(&worker->from_internal, 0);
    outbox_open(&worker->to_public);
    outbox_open(&worker->to_internal);
    worker->pace.window_start = now_ns();
    worker->verdicts = (struct verdicts){.forwarder = crew->forwarder,
                                         .to_public = &worker->to_public,
                                         .to_internal = &worker->to_internal,
                                         .tally = &worker->tally};
    return true;
}

/* Signals are for Python's threads. */
static int start_thread(struct worker *worker, int cpu)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    cpu_set_t cpus;
    int error = pthread_attr_init(&attributes);
    if (error != 0)
        return error;
    if (cpu >= 0) {
        CPU_ZERO(&cpus);
        CPU_SET((size_t)cpu, &cpus);
        error = pthread_attr_setaffinity_np(&attributes, sizeof cpus, &cpus);
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (error == 0)
        error = pthread_create(&worker->thread, &attributes, work, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error;
}

static int start_workers(struct crew *crew, unsigned threads)
{
    size_t bytes = threads * sizeof *crew->workers;
    crew->workers = aligned_alloc(_Alignof(struct worker), bytes);
    if (crew->workers == NULL)
        return ENOMEM;
    memset(crew->workers, 0, bytes);
    for (; crew->worker_count < threads; crew->worker_count++) {
        struct worker *worker = &crew->workers[crew->worker_count];
        int error = ENOMEM;
        if (set_up_worker(crew, worker, crew->worker_count, threads))
            error = start_thread(worker, crew->pairs[crew->worker_count].cpu);
        if (error != 0) {
            free(worker->waited);
            return error;
        }
    }
    return 0;
}

int crew_start(struct crew *crew, struct forwarder *f, const struct pair *pairs,
               unsigned pair_count, unsigned threads)
{
    int error;
    memset(crew, 0, sizeof *crew);
    crew->forwarder = f;
    crew->pid = getpid();
    crew->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    error = crew->stop_fd < 0 ? errno : copy_pairs(crew, pairs, pair_count);
    if (error == 0)
        error = start_workers(crew, threads);
    if (error != 0)
        crew_stop(crew);
    return error;
}

void crew_stop(struct crew *crew)
{
    if (crew->forwarder == NULL)
        return;
    if (crew->pid == getpid()) {
        atomic_store(&crew->stopping, true);
        (void)eventfd_write(crew->stop_fd, 1);
        for (unsigned i = 0; i < crew->worker_count; i++) {
            pthread_join(crew->workers[i].thread, NULL);
            free(crew->workers[i].waited);
        }
    }
    free(crew->workers);
    close_pairs(crew);
    memset(crew, 0, sizeof *crew);
}
