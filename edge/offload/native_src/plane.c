#include "plane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void tie(struct mmsghdr *header, struct iovec *vector, uint8_t *endpoint, uint8_t *data,
                size_t size)
{
    *vector = (struct iovec){data, size};
    header->msg_hdr.msg_name = endpoint;
    header->msg_hdr.msg_iov = vector;
    header->msg_hdr.msg_iovlen = 1;
}

bool plane_open(struct plane *plane, int fd, socklen_t endpoint_bytes, uint64_t seed)
{
    plane->fd = fd;
    plane->endpoint_bytes = endpoint_bytes;
    plane->seed = seed;
    plane->bucket_count = 64;
    plane->inbox = calloc(1, sizeof *plane->inbox);
    plane->outbox = calloc(1, sizeof *plane->outbox);
    plane->buckets = calloc(plane->bucket_count, sizeof *plane->buckets);
    if (plane->inbox == NULL || plane->outbox == NULL || plane->buckets == NULL)
        return false;
    struct inbox *in = plane->inbox;
    struct outbox *out = plane->outbox;
    for (int i = 0; i < BATCH; i++) {
        tie(&in->headers[i], &in->vectors[i], in->endpoints[i], in->data[i], ROOM);
        tie(&out->headers[i], &out->vectors[i], out->endpoints[i], out->data[i], 0);
        out->headers[i].msg_hdr.msg_namelen = endpoint_bytes;
    }
    return true;
}

void plane_close(struct plane *plane)
{
    free(plane->inbox);
    free(plane->outbox);
    free(plane->buckets);
}

int plane_receive(struct plane *plane)
{
    struct inbox *in = plane->inbox;
    for (int i = 0; i < BATCH; i++)
        in->headers[i].msg_hdr.msg_namelen = plane->endpoint_bytes;
    int taken = recvmmsg(plane->fd, in->headers, BATCH, MSG_DONTWAIT, NULL);
    return taken < 0 ? -errno : taken;
}

/* The table. Paths in it passed a check and carried authentic media, so nobody fills it at will. */

static size_t bucket_of(const struct plane *plane, const uint8_t *path)
{
    uint64_t hash = plane->seed, word;
    for (size_t at = 0; at < PATH_BYTES - 6; at += 8) {
        memcpy(&word, path + at, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15;
        hash ^= hash >> 29;
    }
    memcpy(&word, path + PATH_BYTES - 8, 8); /* overlaps by two bytes */
    hash = (hash ^ word) * 0x9E3779B97F4A7C15;
    return (hash ^ hash >> 32) & (plane->bucket_count - 1);
}

struct stream *plane_find(const struct plane *plane, int number, size_t size)
{
    const uint8_t *datagram = plane->inbox->data[number];
    if (size <= PATH_BYTES || plane->stream_count == 0)
        return NULL;
    for (struct stream *each = plane->buckets[bucket_of(plane, datagram)]; each; each = each->next)
        if (memcmp(each->path, datagram, PATH_BYTES) == 0)
            return memcmp(each->endpoint, plane->inbox->endpoints[number],
                          plane->endpoint_bytes) == 0 ? each : NULL;
    return NULL;
}

static bool grow(struct plane *plane)
{
    struct stream **old = plane->buckets;
    size_t count = plane->bucket_count;
    struct stream **buckets = calloc(count * 2, sizeof *buckets);
    if (buckets == NULL)
        return false;
    plane->buckets = buckets;
    plane->bucket_count = count * 2;
    for (size_t i = 0; i < count; i++)
        for (struct stream *each = old[i], *next; each; each = next) {
            struct stream **bucket = &buckets[bucket_of(plane, each->path)];
            next = each->next;
            each->next = *bucket;
            *bucket = each;
        }
    free(old);
    return true;
}

bool plane_list(struct plane *plane, struct stream *stream)
{
    if (plane->stream_count == plane->bucket_count && !grow(plane))
        return false;
    struct stream **bucket = &plane->buckets[bucket_of(plane, stream->path)];
    stream->next = *bucket;
    *bucket = stream;
    stream->listed = true;
    plane->stream_count++;
    return true;
}

void plane_unlist(struct plane *plane, struct stream *stream)
{
    if (!stream->listed)
        return;
    struct stream **at = &plane->buckets[bucket_of(plane, stream->path)];
    while (*at != stream)
        at = &(*at)->next;
    *at = stream->next;
    stream->listed = false;
    plane->stream_count--;
}

uint8_t *plane_room(struct plane *plane)
{
    return plane->outbox->data[plane->outbox->count];
}

void plane_put(struct plane *plane, size_t size, const uint8_t *endpoint)
{
    struct outbox *out = plane->outbox;
    out->vectors[out->count].iov_len = size;
    memcpy(out->endpoints[out->count], endpoint, plane->endpoint_bytes);
    if (++out->count == BATCH || !plane->held)
        plane_flush(plane);
}

/* What ICMP errors become: they tell of an earlier datagram, so this one is worth another try. */
static bool is_late(int error)
{
    return error == ECONNREFUSED || error == EHOSTUNREACH || error == ENETUNREACH ||
           error == EHOSTDOWN || error == ENONET || error == ENOPROTOOPT || error == EPROTO ||
           error == EOPNOTSUPP || error == EACCES || error == EMSGSIZE;
}

/* sendmmsg stops at an error and tells it only at the front. */
void plane_flush(struct plane *plane)
{
    struct outbox *out = plane->outbox;
    int place = 0, tried = -1;
    while (place < out->count) {
        int done = sendmmsg(plane->fd, out->headers + place, (unsigned)(out->count - place),
                            MSG_DONTWAIT);
        if (done > 0) {
            plane->sent += (uint64_t)done;
            place += done;
        } else if (is_late(errno) && place != tried) {
            tried = place;
        } else {
            plane->failed[errno < ERRNOS ? errno : 0]++;
            place++;
        }
    }
    out->count = 0;
}
