/* Floods a UDP address on loopback from many ports, at a steady rate, for some seconds.
 *
 *   flood HOST PORT KIND RATE SECONDS CPU
 *
 * KIND is noise (no protocol's first byte), rtp, dtls, checks (Binding requests whose ufrag is no
 * token) or tokens (ufrags of the form of a token). RATE is datagrams a second; 0 is as fast as it
 * goes. CPU pins the process to one core, -1 to none. Prints how many datagrams the kernel took.
 *
 * One thread; 256 sockets with ports and, for IPv4, addresses in 127.0.0.0/8 of their own. Every
 * datagram is made once, before the start, and 32 go out in one call as segments of one buffer
 * (UDP_SEGMENT): the receiving side splits them before its socket's filter and queue.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum { SOCKETS = 256, BATCH = 32, MADE = 4096, ROOM = 160, CHECK = 84, LATE_NS = 20000000 };

static void put16(unsigned char *at, unsigned value) {
    at[0] = value >> 8;
    at[1] = value & 255;
}

/* A Binding request with USERNAME, PRIORITY and a MESSAGE-INTEGRITY of noise. */
static void make_check(unsigned char *out, int like_token) {
    static const char ice[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned at = 20;
    put16(out, 1);
    memcpy(out + 4, "\x21\x12\xa4\x42", 4);
    put16(out + at, 6);
    put16(out + at + 2, 28);
    for (unsigned i = 0; i < 28; i++)
        out[at + 4 + i] = like_token || i ? ice[out[at + 4 + i] & 63] : '!';
    if (like_token) {
        out[at + 4] = ice[out[at + 4] & 7];
        out[at + 26] = "AQgw"[out[at + 26] & 3];
    }
    out[at + 27] = ':';
    at += 32;
    memcpy(out + at, "\x00\x24\x00\x04", 4);
    at += 8;
    memcpy(out + at, "\x00\x08\x00\x14", 4);
    at += 24;
    put16(out + 2, at - 20);
}

/* Make a datagram; returns its length, which is that of all of its kind. */
static unsigned make(unsigned char *out, const char *kind) {
    if (getrandom(out, ROOM, 0) != ROOM)
        exit(1);
    if (!strcmp(kind, "checks") || !strcmp(kind, "tokens"))
        return make_check(out, kind[0] == 't'), CHECK;
    if (!strcmp(kind, "rtp"))
        memcpy(out, "\x80\x6f", 2);
    else if (!strcmp(kind, "dtls"))
        memcpy(out, "\x16\xfe\xfd", 3);
    else
        out[0] |= 0xc0;
    return ROOM;
}

static int open_socket(const struct sockaddr *to, socklen_t length, unsigned number, int segment) {
    int fd = socket(to->sa_family, SOCK_DGRAM, 0);
    if (to->sa_family == AF_INET) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        from.sin_addr.s_addr = htonl(0x7f000001u + ((number * 2654435761u) & 0x00fffffeu));
        if (bind(fd, (struct sockaddr *)&from, sizeof from))
            perror("bind"), exit(1);
    }
    if (fd < 0 || connect(fd, to, length))
        perror("connect"), exit(1);
    if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment))
        perror("UDP_SEGMENT"), exit(1);
    return fd;
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 7)
        return fprintf(stderr, "flood HOST PORT KIND RATE SECONDS CPU\n"), 2;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[2]))};
    int is_v6 = inet_pton(AF_INET6, argv[1], &v6.sin6_addr) == 1;
    if (!is_v6 && inet_pton(AF_INET, argv[1], &v4.sin_addr) != 1)
        return fprintf(stderr, "not an address\n"), 2;
    if (atoi(argv[6]) >= 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(atoi(argv[6]), &cpus);
        sched_setaffinity(0, sizeof cpus, &cpus);
    }
    static unsigned char made[MADE * ROOM];
    unsigned length = 0;
    for (unsigned i = 0; i < MADE; i++)
        length = make(made + i * length, argv[3]);
    int sockets[SOCKETS];
    for (unsigned i = 0; i < SOCKETS; i++)
        sockets[i] = is_v6 ? open_socket((struct sockaddr *)&v6, sizeof v6, i, length)
                           : open_socket((struct sockaddr *)&v4, sizeof v4, i, length);

    double rate = atof(argv[4]);
    int64_t start = now_ns(), end = start + (int64_t)(atof(argv[5]) * 1e9), due = start, now;
    int64_t step = rate > 0 ? (int64_t)(BATCH * 1e9 / rate) : 0;
    uint64_t taken = 0, batches = 0;
    while ((now = now_ns()) < end) {
        if (due > now) {
            struct timespec wait = {0, due - now < 100000 ? due - now : 100000};
            nanosleep(&wait, NULL);
            continue;
        }
        if (now - due > LATE_NS)
            due = now; /* too slow for the rate: what was missed is not made up for in a burst */
        const unsigned char *batch = made + batches * BATCH % MADE * length;
        if (send(sockets[batches % SOCKETS], batch, BATCH * length, 0) > 0)
            taken += BATCH;
        else if (errno != ECONNREFUSED && errno != ENOBUFS && errno != EAGAIN)
            perror("send"), exit(1);
        batches++;
        due += step;
    }
    printf("%llu\n", (unsigned long long)taken);
    return 0;
}
