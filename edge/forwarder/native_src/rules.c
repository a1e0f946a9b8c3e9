/* See rules.h. A batch is read twice: first, without the mutex, headers are written, keys hashed and
   table entries fetched into the cache; then each datagram is decided on. */
#include "rules.h"

#include "stun.h"

#include <string.h>

#define GIVE_BYTES 4

struct packet {
    const uint8_t *path;
    const uint8_t *payload;
    size_t length; /* of the payload */
    uint32_t hash; /* of the path */
    const struct hop *sender; /* NULL: from the client's side */
};

static void drop(struct verdicts *v, enum count why)
{
    v->tally->of[why]++;
}

static void missing_hop(struct verdicts *v)
{
    drop(v, UNKNOWN_SLOT);
    v->stale = true;
}

static void raise_known(struct verdicts *v, const struct packet *p)
{
    struct forwarder *f = v->forwarder;
    enum count why = raise_datagram(f, &f->known, p->path, p->payload, p->length,
                                    p->sender != NULL ? p->sender->number : 0, &v->wake);
    if (why != COUNTS)
        drop(v, why);
}

static void raise_stranger(struct verdicts *v, const struct packet *p)
{
    struct forwarder *f = v->forwarder;
    enum count why = RATE_LIMIT;
    if (bucket_take(&f->bucket, now_ns()))
        why = raise_datagram(f, &f->strangers, p->path, p->payload, p->length, 0, &v->wake);
    if (why != COUNTS)
        drop(v, why);
}

/* Towards a hop, and towards a client. */

static void to_hop(struct verdicts *v, const struct packet *p, uint32_t number)
{
    const struct hop *hop = hop_find(v->forwarder, number);
    if (hop == NULL)
        missing_hop(v);
    else if (hop->target_bytes == 0)
        drop(v, SEND_ERROR);
    else
        outbox_add(v->to_internal, &hop->target, hop->target_bytes, p->path, p->payload, p->length,
                   true);
}

static void to_own_client(struct verdicts *v, const struct packet *p)
{
    struct endpoint client = path_client(p->path);
    union socket_address target;
    socklen_t bytes = endpoint_to_socket(&client, v->forwarder->public_family, &target);
    if (bytes == 0)
        drop(v, SEND_ERROR);
    else
        outbox_add(v->to_public, &target, bytes, NULL, p->payload, p->length, false);
}

static void to_peer(struct verdicts *v, const struct packet *p, const struct hop *peer)
{
    if (peer->target_bytes == 0)
        drop(v, SEND_ERROR);
    else
        outbox_add(v->to_internal, &peer->target, peer->target_bytes, p->path, p->payload,
                   p->length, false);
}

static void to_client(struct verdicts *v, const struct packet *p)
{
    struct endpoint proxy = path_proxy(p->path);
    const struct hop *peer;
    if (endpoint_equal(&proxy, &v->forwarder->advertised))
        to_own_client(v, p);
    else if ((peer = peer_at(v->forwarder, &proxy)) != NULL)
        to_peer(v, p, peer);
    else
        drop(v, UNKNOWN_RELAY);
}

/* From the client's side. */

static bool has_own_source(const struct forwarder *f, const uint8_t *path)
{
    struct endpoint client = path_client(path);
    return endpoint_equal(&client, &f->advertised);
}

static void request(struct verdicts *v, const struct packet *p, bool known)
{
    if (!stun_is_check(p->payload, p->length))
        drop(v, MALFORMED);
    else if (known)
        raise_known(v, p);
    else
        raise_stranger(v, p);
}

static void unknown_client(struct verdicts *v, const struct packet *p)
{
    if (is_stun(p->payload) || is_media(p->payload))
        raise_stranger(v, p);
    else
        drop(v, UNKNOWN_KIND);
}

static bool is_acceptable(const struct forwarder *f, const struct packet *p)
{
    return p->length > 0 && p->length <= MAX_PAYLOAD && !has_own_source(f, p->path) &&
           (!is_stun(p->payload) || stun_is_sound(p->payload, p->length));
}

static void from_client(struct verdicts *v, const struct packet *p)
{
    if (!is_acceptable(v->forwarder, p)) {
        drop(v, MALFORMED);
        return;
    }
    const struct flow *flow = flow_find(v->forwarder, p->path, p->hash);
    if (is_stun(p->payload) && stun_is_request(p->payload)) {
        request(v, p, flow != NULL);
    } else if (flow == NULL) {
        unknown_client(v, p);
    } else {
        to_hop(v, p, flow->owner);
        if (flow->challenger != 0)
            to_hop(v, p, flow->challenger);
    }
}

/* From the inside. */

static bool answers_for(const struct forwarder *f, const struct hop *sender, uint32_t number)
{
    if (number == 0 || number == sender->number)
        return number != 0;
    const struct hop *hop = hop_find(f, number);
    return hop != NULL && hop->group == sender->group;
}

static void from_owner(struct verdicts *v, const struct packet *p)
{
    const struct flow *flow = flow_find(v->forwarder, p->path, p->hash);
    if (flow == NULL)
        raise_known(v, p);
    else if (answers_for(v->forwarder, p->sender, flow->owner) ||
             answers_for(v->forwarder, p->sender, flow->challenger))
        to_client(v, p);
    else
        drop(v, NOT_OWNER);
}

/* What is said of a flow, not to its client: that it is given back, or to a slot (`wire.spp`). */
static bool is_about_flow(const struct packet *p)
{
    static const uint8_t nobody[GIVE_BYTES];
    return p->length == 0 || (p->length == GIVE_BYTES && p->payload[0] == 0 &&
                              memcmp(p->payload, nobody, GIVE_BYTES) != 0);
}

static void outwards(struct verdicts *v, const struct packet *p)
{
    if (is_about_flow(p))
        raise_known(v, p);
    else if (!is_stun(p->payload))
        from_owner(v, p);
    else if (!stun_is_sound(p->payload, p->length))
        drop(v, MALFORMED);
    else if (stun_is_response(p->payload))
        raise_known(v, p);
    else
        from_owner(v, p);
}

static void from_hop(struct verdicts *v, struct packet *p)
{
    const struct hop *sender = p->sender;
    struct endpoint proxy = path_proxy(p->path);
    if (endpoint_equal(&proxy, &v->forwarder->advertised)) {
        outwards(v, p);
    } else if (sender->is_peer && endpoint_equal(&proxy, &sender->public)) {
        p->sender = NULL;
        from_client(v, p);
    } else if (peer_at(v->forwarder, &proxy) == NULL) {
        drop(v, UNKNOWN_RELAY);
    } else if (sender->is_peer) {
        drop(v, LOOP);
    } else {
        outwards(v, p);
    }
}

static void from_inside(struct verdicts *v, struct packet *p, const struct endpoint *source)
{
    p->sender = hop_at(v->forwarder, source);
    if (p->sender == NULL)
        missing_hop(v);
    else if (p->path == NULL)
        drop(v, MALFORMED);
    else
        from_hop(v, p);
}

/* Batches. */

static bool is_cut(const struct mmsghdr *header)
{
    return (header->msg_hdr.msg_flags & MSG_TRUNC) != 0;
}

static void look_up(const struct forwarder *f, struct packet *p)
{
    p->hash = flow_hash(f, p->path);
    table_prefetch(&f->flows, p->hash);
}

/* A source of no known family gives a packet without a path. */
static void read_public(const struct forwarder *f, struct inbox *inbox, unsigned i,
                        struct packet *p)
{
    struct endpoint client;
    uint8_t *path = inbox->buffers[i];
    *p = (struct packet){.payload = path + PATH_BYTES, .length = inbox->headers[i].msg_len};
    if (is_cut(&inbox->headers[i]) || !endpoint_from_socket(&inbox->sources[i], &client))
        return;
    path_write(path, &client, &f->advertised);
    p->path = path;
    look_up(f, p);
}

void decide_public(struct verdicts *v, struct inbox *inbox)
{
    struct packet packets[BATCH];
    for (unsigned i = 0; i < inbox->count; i++)
        read_public(v->forwarder, inbox, i, &packets[i]);
    forwarder_lock(v->forwarder);
    for (unsigned i = 0; i < inbox->count; i++) {
        if (packets[i].path != NULL)
            from_client(v, &packets[i]);
        else
            drop(v, MALFORMED);
    }
    forwarder_unlock(v->forwarder);
}

static void read_internal(const struct forwarder *f, const struct inbox *inbox, unsigned i,
                          struct packet *p)
{
    const uint8_t *datagram = inbox->buffers[i];
    size_t length = inbox->headers[i].msg_len;
    *p = (struct packet){.path = NULL};
    if (length < PATH_BYTES || !path_has_magic(datagram))
        return;
    p->path = datagram;
    p->payload = datagram + PATH_BYTES;
    p->length = length - PATH_BYTES;
    look_up(f, p);
}

void decide_internal(struct verdicts *v, struct inbox *inbox)
{
    struct packet packets[BATCH];
    struct endpoint source;
    for (unsigned i = 0; i < inbox->count; i++)
        read_internal(v->forwarder, inbox, i, &packets[i]);
    forwarder_lock(v->forwarder);
    for (unsigned i = 0; i < inbox->count; i++) {
        if (!is_cut(&inbox->headers[i]) && endpoint_from_socket(&inbox->sources[i], &source))
            from_inside(v, &packets[i], &source);
        else
            drop(v, MALFORMED);
    }
    forwarder_unlock(v->forwarder);
}

/* What Python sends. */

void decide_forward(struct verdicts *v, const uint8_t *path, const uint8_t *payload, size_t length,
                    uint32_t hop)
{
    struct packet packet = {.path = path, .payload = payload, .length = length};
    if (length > MAX_PAYLOAD)
        drop(v, MALFORMED);
    else
        to_hop(v, &packet, hop);
}

void decide_deliver(struct verdicts *v, const uint8_t *path, const uint8_t *payload, size_t length)
{
    struct packet packet = {.path = path, .payload = payload, .length = length};
    if (length > MAX_PAYLOAD)
        drop(v, MALFORMED);
    else
        to_client(v, &packet);
}

void verdicts_tell(struct verdicts *v)
{
    if (v->wake)
        tell_raised(v->forwarder);
    if (v->stale)
        tell_stale(v->forwarder);
    v->wake = v->stale = false;
}
