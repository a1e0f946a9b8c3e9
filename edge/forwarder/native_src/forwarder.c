/* See forwarder.h. */
#include "forwarder.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

const char *const count_names[COUNTS] = {
    [PACKETS_IN] = "packets_to_transceivers",
    [BYTES_IN] = "bytes_to_transceivers",
    [PACKETS_OUT] = "packets_to_clients",
    [BYTES_OUT] = "bytes_to_clients",
    [WAKES] = "wakes",
    [MALFORMED] = "malformed",
    [UNKNOWN_KIND] = "unknown_kind",
    [UNKNOWN_SLOT] = "unknown_slot",
    [UNKNOWN_RELAY] = "unknown_relay",
    [NOT_OWNER] = "not_owner",
    [LOOP] = "loop",
    [UNREACHABLE] = "unreachable",
    [RATE_LIMIT] = "rate_limit",
    [QUEUE_FULL] = "queue_full",
    [SEND_BLOCKED] = "send_blocked",
    [SEND_ERROR] = "send_error",
    [RECEIVE_ERROR] = "receive_error",
};

/* The table finds a key right behind the hash. */
_Static_assert(offsetof(struct flow, key) == sizeof(struct entry), "key follows hash");
_Static_assert(offsetof(struct hop, number) == sizeof(struct entry), "key follows hash");
_Static_assert(offsetof(struct hop_name, key) == sizeof(struct entry), "key follows hash");
_Static_assert(sizeof(struct flow) == 64, "a flow is one cache line");
_Static_assert(sizeof(struct endpoint) == 18, "an endpoint has no padding");

static bool open_tables(struct forwarder *f, uint32_t max_flows)
{
    return table_open(&f->flows, PATH_KEY_BYTES, sizeof(struct flow), max_flows) &&
           table_open(&f->hops, sizeof(uint32_t), sizeof(struct hop), 0) &&
           table_open(&f->by_address, sizeof(struct endpoint), sizeof(struct hop_name), 0) &&
           table_open(&f->by_public, sizeof(struct endpoint), sizeof(struct hop_name), 0);
}

static bool open_events(struct forwarder *f)
{
    f->raised_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    f->stale_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return f->raised_fd >= 0 && f->stale_fd >= 0;
}

bool forwarder_open(struct forwarder *f, const struct endpoint *advertised, double per_second,
                    uint32_t max_flows)
{
    double capacity = per_second > 1 ? per_second : 1;
    memset(f, 0, sizeof *f);
    f->raised_fd = f->stale_fd = -1;
    pthread_mutex_init(&f->mutex, NULL);
    f->advertised = *advertised;
    f->known.size = KNOWN_QUEUE;
    f->strangers.size = STRANGER_QUEUE;
    f->bucket = (struct bucket){per_second, capacity, capacity, now_ns()};
    return open_tables(f, max_flows) && open_events(f);
}

static void drop_queue(struct queue *queue)
{
    for (; queue->count > 0; queue->count--) {
        free(queue->items[queue->head]);
        queue->head = (queue->head + 1) % queue->size;
    }
}

void forwarder_close(struct forwarder *f)
{
    drop_queue(&f->known);
    drop_queue(&f->strangers);
    table_close(&f->flows);
    table_close(&f->hops);
    table_close(&f->by_address);
    table_close(&f->by_public);
    if (f->raised_fd >= 0)
        close(f->raised_fd);
    if (f->stale_fd >= 0)
        close(f->stale_fd);
    pthread_mutex_destroy(&f->mutex);
}

void forwarder_lock(struct forwarder *f)
{
    pthread_mutex_lock(&f->mutex);
}

void forwarder_unlock(struct forwarder *f)
{
    pthread_mutex_unlock(&f->mutex);
}

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Flows and hops. */

uint32_t flow_hash(const struct forwarder *f, const uint8_t *path)
{
    return table_hash(&f->flows, path + MAGIC_BYTES);
}

struct flow *flow_find(const struct forwarder *f, const uint8_t *path, uint32_t hash)
{
    return table_find(&f->flows, path + MAGIC_BYTES, hash);
}

const struct hop *hop_find(const struct forwarder *f, uint32_t number)
{
    return table_find(&f->hops, &number, table_hash(&f->hops, &number));
}

static const struct hop *named(const struct forwarder *f, const struct table *names,
                               const struct endpoint *endpoint)
{
    const struct hop_name *name = table_find(names, endpoint, table_hash(names, endpoint));
    return name != NULL ? hop_find(f, name->number) : NULL;
}

const struct hop *hop_at(const struct forwarder *f, const struct endpoint *address)
{
    return named(f, &f->by_address, address);
}

const struct hop *peer_at(const struct forwarder *f, const struct endpoint *public)
{
    return named(f, &f->by_public, public);
}

static bool name_set(struct table *names, const struct endpoint *endpoint, uint32_t number)
{
    struct hop_name *name = table_put(names, endpoint, table_hash(names, endpoint));
    if (name != NULL)
        name->number = number;
    return name != NULL;
}

/* Another hop may have taken the name over. */
static void name_remove(struct table *names, const struct endpoint *endpoint, uint32_t number)
{
    uint32_t hash = table_hash(names, endpoint);
    const struct hop_name *name = table_find(names, endpoint, hash);
    if (name != NULL && name->number == number)
        table_remove(names, endpoint, hash);
}

static void hop_fill(struct forwarder *f, struct hop *hop, const struct endpoint *address,
                     int64_t group, const struct endpoint *public)
{
    hop->address = *address;
    hop->group = group;
    hop->is_peer = public != NULL;
    if (public != NULL)
        hop->public = *public;
    hop->target_bytes = endpoint_to_socket(address, f->internal_family, &hop->target);
}

bool hop_set(struct forwarder *f, uint32_t number, const struct endpoint *address, int64_t group,
             const struct endpoint *public)
{
    hop_remove(f, number);
    struct hop *hop = table_put(&f->hops, &number, table_hash(&f->hops, &number));
    if (hop == NULL)
        return false;
    hop_fill(f, hop, address, group, public);
    if (name_set(&f->by_address, address, number) &&
        (public == NULL || name_set(&f->by_public, public, number)))
        return true;
    hop_remove(f, number);
    return false;
}

void hop_remove(struct forwarder *f, uint32_t number)
{
    const struct hop *hop = hop_find(f, number);
    if (hop == NULL)
        return;
    name_remove(&f->by_address, &hop->address, number);
    if (hop->is_peer)
        name_remove(&f->by_public, &hop->public, number);
    table_remove(&f->hops, &number, table_hash(&f->hops, &number));
}

/* Raised datagrams. */

enum count raise_datagram(struct forwarder *f, struct queue *queue, const uint8_t *path,
                          const uint8_t *payload, size_t length, uint32_t sender, bool *wake)
{
    struct raised *item = NULL;
    if (queue->count < queue->size)
        item = malloc(sizeof *item + length);
    if (item == NULL)
        return QUEUE_FULL;
    memcpy(item->path, path, PATH_BYTES);
    memcpy(item->payload, payload, length);
    item->sender = sender;
    item->length = length;
    queue->items[(queue->head + queue->count++) % queue->size] = item;
    *wake |= !f->raised_told;
    f->raised_told = true;
    return COUNTS;
}

bool bucket_take(struct bucket *bucket, uint64_t now)
{
    if (now > bucket->updated) {
        bucket->tokens += (double)(now - bucket->updated) * 1e-9 * bucket->per_second;
        bucket->updated = now;
    }
    if (bucket->tokens > bucket->capacity)
        bucket->tokens = bucket->capacity;
    if (bucket->tokens < 1)
        return false;
    bucket->tokens -= 1;
    return true;
}

static unsigned take_some(struct queue *queue, struct raised **items)
{
    unsigned count = queue->count < RAISED_BATCH ? queue->count : RAISED_BATCH;
    for (unsigned i = 0; i < count; i++)
        items[i] = queue->items[(queue->head + i) % queue->size];
    queue->head = (queue->head + count) % queue->size;
    queue->count -= count;
    return count;
}

/* The eventfd is read first: while `raised_told` stands nobody writes it, and what is raised until
   the mutex is ours is taken, or told of again because something is left. */
unsigned take_raised(struct forwarder *f, struct raised *items[2 * RAISED_BATCH])
{
    eventfd_t ignored;
    (void)eventfd_read(f->raised_fd, &ignored);
    forwarder_lock(f);
    unsigned count = take_some(&f->known, items);
    count += take_some(&f->strangers, items + count);
    f->raised_told = f->known.count > 0 || f->strangers.count > 0;
    bool more = f->raised_told;
    forwarder_unlock(f);
    if (more)
        tell_raised(f);
    return count;
}

void tell_raised(struct forwarder *f)
{
    (void)eventfd_write(f->raised_fd, 1);
}

void tell_stale(struct forwarder *f)
{
    if (!atomic_exchange(&f->stale_told, true))
        (void)eventfd_write(f->stale_fd, 1);
}

/* In this order: a `tell_stale` in between is answered by the call that follows. */
bool clear_stale(struct forwarder *f)
{
    eventfd_t ignored;
    (void)eventfd_read(f->stale_fd, &ignored);
    return atomic_exchange(&f->stale_told, false);
}

void tally_add(struct forwarder *f, struct tally *tally)
{
    for (int i = 0; i < COUNTS; i++) {
        if (tally->of[i] != 0)
            atomic_fetch_add_explicit(&f->counts[i], tally->of[i], memory_order_relaxed);
        tally->of[i] = 0;
    }
}
