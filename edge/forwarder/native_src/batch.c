/* See batch.h.

   An unconnected UDP socket with IP_RECVERR hears that a transceiver is gone: the ICMP error waits
   in the error queue, and the next call on the socket fails for it, whatever that call was for. So
   a failed call empties the queue, and is tried again. */
#include "batch.h"

#include <errno.h>
#include <string.h>
#include <time.h> /* for linux/errqueue.h */

#include <linux/errqueue.h>

#define RETRIES 3 /* more errors may come meanwhile */
#define MAX_ERRORS 256 /* taken in a row; the rest at the next call */

static void set_up(struct msghdr *header, union socket_address *name, struct iovec *vectors)
{
    memset(header, 0, sizeof *header);
    header->msg_name = name;
    header->msg_namelen = sizeof *name;
    header->msg_iov = vectors;
    header->msg_iovlen = 1;
}

/* The error queue. */

static bool is_icmp(const struct cmsghdr *part)
{
    struct sock_extended_err error;
    bool v4 = part->cmsg_level == IPPROTO_IP && part->cmsg_type == IP_RECVERR;
    bool v6 = part->cmsg_level == IPPROTO_IPV6 && part->cmsg_type == IPV6_RECVERR;
    if ((!v4 && !v6) || part->cmsg_len < CMSG_LEN(sizeof error))
        return false;
    memcpy(&error, CMSG_DATA(part), sizeof error);
    return (error.ee_origin == SO_EE_ORIGIN_ICMP || error.ee_origin == SO_EE_ORIGIN_ICMP6) &&
           error.ee_errno != EMSGSIZE; /* too long for the way, which tells nothing of its end */
}

/* Take one error; returns false when there is none. */
static bool take_error(int fd, bool *unreachable)
{
    _Alignas(struct cmsghdr) uint8_t control[512];
    struct msghdr header = {.msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(fd, &header, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
        return false;
    *unreachable = false;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&header); part != NULL;
         part = CMSG_NXTHDR(&header, part))
        *unreachable |= is_icmp(part);
    return true;
}

bool drain_errors(int fd, struct forwarder *f, struct tally *tally)
{
    bool unreachable, stale = false;
    int taken = 0;
    while (taken < MAX_ERRORS && take_error(fd, &unreachable)) {
        taken++;
        tally->of[UNREACHABLE] += unreachable;
        stale |= unreachable;
    }
    if (stale)
        tell_stale(f);
    return taken > 0;
}

bool watch_errors(int fd, int family)
{
    int on = 1;
    if (family == AF_INET)
        return setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on) == 0;
    return setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on) == 0;
}

/* Receiving. */

void inbox_open(struct inbox *inbox, unsigned headroom)
{
    inbox->headroom = headroom;
    inbox->count = BATCH; /* headers to set up again */
    for (unsigned i = 0; i < BATCH; i++) {
        set_up(&inbox->headers[i].msg_hdr, &inbox->sources[i], &inbox->vectors[i]);
        inbox->vectors[i].iov_base = inbox->buffers[i] + headroom;
        inbox->vectors[i].iov_len = MAX_DATAGRAM;
    }
}

/* What ICMP errors become (net/ipv4/icmp.c, net/ipv6/icmp.c). */
static bool is_late(int error)
{
    switch (error) {
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENONET:
    case ENOPROTOOPT:
    case EPROTO:
    case EOPNOTSUPP:
    case EACCES:
    case EMSGSIZE:
        return true;
    default:
        return false;
    }
}

/* A late error is counted by who takes it from the error queue, which may be another thread. */
static void count_failure(int error, int fd, struct forwarder *f, struct tally *tally)
{
    if (!drain_errors(fd, f, tally) && !is_late(error))
        tally->of[RECEIVE_ERROR]++;
}

unsigned inbox_receive(struct inbox *inbox, int fd, struct forwarder *f, struct tally *tally)
{
    for (unsigned i = 0; i < inbox->count; i++)
        inbox->headers[i].msg_hdr.msg_namelen = sizeof inbox->sources[i];
    inbox->count = 0;
    int got = recvmmsg(fd, inbox->headers, BATCH, MSG_DONTWAIT, NULL);
    if (got >= 0)
        inbox->count = (unsigned)got;
    else if (errno != EAGAIN && errno != EINTR)
        count_failure(errno, fd, f, tally);
    return inbox->count;
}

/* Sending. */

void outbox_open(struct outbox *outbox)
{
    outbox->count = 0;
    for (unsigned i = 0; i < OUTBOX; i++)
        set_up(&outbox->headers[i].msg_hdr, &outbox->targets[i], outbox->vectors[i]);
}

/* What was received in one piece goes out in one piece. */
static size_t set_vectors(struct iovec *vectors, const uint8_t *path, const uint8_t *payload,
                          size_t length)
{
    bool whole = path == NULL || path + PATH_BYTES == payload;
    vectors[0].iov_base = (void *)(uintptr_t)(path != NULL ? path : payload);
    vectors[0].iov_len = (path != NULL ? PATH_BYTES : 0) + (whole ? length : 0);
    vectors[1].iov_base = (void *)(uintptr_t)payload;
    vectors[1].iov_len = length;
    return whole ? 1 : 2;
}

void outbox_add(struct outbox *outbox, const union socket_address *to, socklen_t to_bytes,
                const uint8_t *path, const uint8_t *payload, size_t length, bool inwards)
{
    unsigned i = outbox->count++;
    struct msghdr *header = &outbox->headers[i].msg_hdr;
    outbox->targets[i] = *to;
    header->msg_namelen = to_bytes;
    header->msg_iovlen = set_vectors(outbox->vectors[i], path, payload, length);
    outbox->payloads[i] = length;
    outbox->inwards[i] = inwards;
}

static void count_sent(const struct outbox *outbox, unsigned from, unsigned to,
                       struct tally *tally)
{
    for (unsigned i = from; i < to; i++) {
        tally->of[outbox->inwards[i] ? PACKETS_IN : PACKETS_OUT]++;
        tally->of[outbox->inwards[i] ? BYTES_IN : BYTES_OUT] += outbox->payloads[i];
    }
}

static enum count why_not_sent(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS ? SEND_BLOCKED : SEND_ERROR;
}

/* The first time in any case: another thread may have emptied the error queue already. */
static bool may_retry(int error, unsigned tries, int fd, struct forwarder *f, struct tally *tally)
{
    if (why_not_sent(error) == SEND_BLOCKED)
        return false;
    bool drained = drain_errors(fd, f, tally);
    return tries == 0 || (drained && tries < RETRIES);
}

/* sendmmsg stops at a message that fails. It tells why only when that is the first, which it is at
   the next call if it fails again; an error that was another's is gone by then. */
void outbox_send(struct outbox *outbox, int fd, struct forwarder *f, struct tally *tally)
{
    unsigned next = 0, tries = 0;
    while (next < outbox->count) {
        int sent = sendmmsg(fd, outbox->headers + next, outbox->count - next,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        int error = errno;
        if (sent > 0) {
            count_sent(outbox, next, next + (unsigned)sent, tally);
            next += (unsigned)sent;
            tries = 0;
            if (next < outbox->count)
                (void)drain_errors(fd, f, tally);
        } else if (!may_retry(error, tries++, fd, f, tally)) {
            tally->of[why_not_sent(error)]++;
            next++;
            tries = 0;
        }
    }
    outbox->count = 0;
}
