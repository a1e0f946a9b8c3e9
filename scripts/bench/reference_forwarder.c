/* The limit that Edge's relay is measured against: recvmmsg, one table, sendmmsg, nothing else.
 *
 *   reference_forwarder BATCH TICK_US HOP_PORT FLOWS_FILE COUNT
 *
 * One loop serves both directions. Clients reach the public socket; their datagrams get an SPP
 * header in front and go to the hop on 127.0.0.1:HOP_PORT; what the hop sends loses the header and
 * goes to the client that it names, if the table knows that client. BATCH 64 with TICK_US 500
 * waits half a millisecond between two rounds once more than BUSY_RATE packets/s are there; BATCH 1
 * with TICK_US 0 is one receive and one send a packet. FLOWS_FILE holds 4 bytes of IPv4 address
 * and 2 of port a flow, in network order. SIGUSR1 prints a line of counters.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_BATCH = 64,
    HEADER = 38,
    DATAGRAM = 2048,
    PORT_AT = 34, /* of the client, in the header; its address is at 2 */
    BUSY_RATE = 7000,
    RATE_WINDOW_NS = 10000000,
    SOCKET_BUFFER = 4 << 20,
};

struct flow {
    uint8_t host[16];
    uint16_t port; /* network order; 0: a free place */
    uint16_t hop;
};

struct way {
    int from, to;
    struct mmsghdr received[MAX_BATCH], sent[MAX_BATCH];
    struct iovec into[MAX_BATCH], out[MAX_BATCH];
    struct sockaddr_in sources[MAX_BATCH], targets[MAX_BATCH];
    uint8_t buffers[MAX_BATCH][HEADER + DATAGRAM];
};

static struct way inwards, outwards;
static struct flow *table;
static uint64_t mask, keys[2];
static uint8_t template[HEADER];
static struct sockaddr_in hop;
static unsigned batch;
static unsigned long long packets, wakes, dropped;
static volatile sig_atomic_t asked;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void ask(int number) { asked = number; }

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* A keyed multiply-and-fold over address and port: clients can not choose their place. */
static uint64_t hash(const uint8_t *host, uint16_t port) {
    uint64_t low, high;
    memcpy(&low, host, 8);
    memcpy(&high, host + 8, 8);
    __uint128_t product = (__uint128_t)(low ^ port ^ keys[0]) * (high ^ keys[1]);
    product = (__uint128_t)((uint64_t)product ^ keys[1]) * (uint64_t)(product >> 64 | 1);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static struct flow *find(const uint8_t *host, uint16_t port) {
    uint64_t place = hash(host, port) & mask;
    while (table[place].port && (table[place].port != port || memcmp(table[place].host, host, 16)))
        place = (place + 1) & mask;
    return &table[place];
}

static long resident_bytes(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*d %ld", &pages) != 1) die("statm");
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

static void fill(const char *name, unsigned long count) {
    uint8_t record[6], host[16] = {[10] = 0xff, [11] = 0xff};
    FILE *file = fopen(name, "rb");
    if (!file) die(name);
    for (mask = 1; mask < 2 * count; mask *= 2) continue;
    table = calloc(mask--, sizeof *table);
    if (!table || getrandom(keys, sizeof keys, 0) != sizeof keys) die("table");
    for (unsigned long i = 0; i < count; i++) {
        uint16_t port;
        if (fread(record, sizeof record, 1, file) != 1) die(name);
        memcpy(host + 12, record, 4);
        memcpy(&port, record + 4, 2);
        struct flow *flow = find(host, port);
        memcpy(flow->host, host, 16);
        flow->port = port;
        flow->hop = 1;
    }
    fclose(file);
}

static int udp(struct sockaddr_in *address) {
    int size = SOCKET_BUFFER, fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    socklen_t length = sizeof *address;
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (fd < 0 || bind(fd, (void *)address, sizeof *address)) die("bind");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    getsockname(fd, (void *)address, &length);
    return fd;
}

/* Payloads lie behind room for a header, so that it goes in front without a copy. */
static void prepare(struct way *way, int from, int to, int room) {
    way->from = from;
    way->to = to;
    for (int i = 0; i < MAX_BATCH; i++) {
        way->into[i] = (struct iovec){way->buffers[i] + room, DATAGRAM};
        way->received[i].msg_hdr = (struct msghdr){
            .msg_name = &way->sources[i], .msg_iov = &way->into[i], .msg_iovlen = 1};
        way->sent[i].msg_hdr = (struct msghdr){.msg_namelen = sizeof way->targets[i],
            .msg_name = &way->targets[i], .msg_iov = &way->out[i], .msg_iovlen = 1};
        way->targets[i].sin_family = AF_INET;
    }
}

static int receive(struct way *way) {
    for (unsigned i = 0; i < batch; i++)
        way->received[i].msg_hdr.msg_namelen = sizeof way->sources[i];
    int count = recvmmsg(way->from, way->received, batch, MSG_DONTWAIT, NULL);
    return count < 0 ? 0 : count;
}

static void send_all(struct way *way, int count) {
    int done = 0;
    while (done < count) {
        int sent = sendmmsg(way->to, way->sent + done, count - done, 0);
        packets += sent > 0 ? sent : 0;
        dropped += sent <= 0;
        done += sent > 0 ? sent : 1;
    }
}

static int take_inwards(struct way *way) {
    int count = receive(way), ready = 0;
    for (int i = 0; i < count; i++) {
        uint8_t *datagram = way->buffers[i];
        memcpy(datagram, template, HEADER);
        memcpy(datagram + 14, &way->sources[i].sin_addr, 4);
        memcpy(datagram + PORT_AT, &way->sources[i].sin_port, 2);
        if (!find(datagram + 2, way->sources[i].sin_port)->hop) {
            dropped++;
            continue;
        }
        way->out[ready] = (struct iovec){datagram, HEADER + way->received[i].msg_len};
        way->targets[ready++] = hop;
    }
    send_all(way, ready);
    return count;
}

static int take_outwards(struct way *way) {
    int count = receive(way), ready = 0;
    for (int i = 0; i < count; i++) {
        uint8_t *datagram = way->buffers[i];
        uint16_t port;
        memcpy(&port, datagram + PORT_AT, 2);
        if (way->received[i].msg_len <= HEADER || memcmp(datagram, template, 2) ||
            way->sources[i].sin_port != hop.sin_port || !find(datagram + 2, port)->hop) {
            dropped++;
            continue;
        }
        way->out[ready] = (struct iovec){datagram + HEADER, way->received[i].msg_len - HEADER};
        memcpy(&way->targets[ready].sin_addr, datagram + 14, 4);
        way->targets[ready++].sin_port = port;
    }
    send_all(way, ready);
    return count;
}

static unsigned drain(struct way *way, int (*take)(struct way *)) {
    unsigned total = 0, count;
    do total += count = take(way);
    while (count == batch && total < 16 * MAX_BATCH);
    return total;
}

static void report(void) {
    printf("{\"packets\": %llu, \"wakes\": %llu, \"dropped\": %llu}\n", packets, wakes, dropped);
    fflush(stdout);
    asked = 0;
}

static void serve(long tick_ns) {
    struct pollfd waits[] = {{.fd = inwards.from, .events = POLLIN},
                             {.fd = outwards.from, .events = POLLIN}};
    struct timespec tick = {0, tick_ns};
    uint64_t since = now_ns(), counted = 0;
    int busy = 0;
    sigset_t none;
    sigemptyset(&none); /* SIGUSR1 comes only while nothing is to do: else it might be missed */
    for (;;) {
        unsigned taken = drain(&inwards, take_inwards) + drain(&outwards, take_outwards);
        uint64_t now = now_ns();
        wakes += taken > 0;
        counted += taken;
        if (now - since >= RATE_WINDOW_NS) {
            busy = tick_ns && counted * 1000000000ull / (now - since) >= BUSY_RATE;
            since = now;
            counted = 0;
        }
        if (busy && taken) nanosleep(&tick, NULL);
        else ppoll(waits, 2, NULL, &none);
        if (asked) report();
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in public_address, internal_address;
    if (argc != 6) return 2;
    batch = atoi(argv[1]);
    hop = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)},
                               .sin_port = htons(atoi(argv[3]))};
    int public = udp(&public_address), internal = udp(&internal_address);
    memcpy(template, "\x56\xec", 2);
    template[12] = template[13] = template[28] = template[29] = 0xff;
    memcpy(template + 30, &public_address.sin_addr, 4);
    memcpy(template + 36, &public_address.sin_port, 2);
    prepare(&inwards, public, internal, HEADER);
    prepare(&outwards, internal, public, 0);
    long before = resident_bytes();
    unsigned long count = strtoul(argv[5], NULL, 10);
    fill(argv[4], count);
    prctl(PR_SET_TIMERSLACK, 1);
    struct sigaction action = {.sa_handler = ask};
    sigset_t ask_later;
    sigemptyset(&ask_later);
    sigaddset(&ask_later, SIGUSR1);
    sigprocmask(SIG_BLOCK, &ask_later, NULL);
    sigaction(SIGUSR1, &action, NULL);
    printf("{\"public\": %d, \"internal\": %d, \"bytes_per_flow\": %.1f}\n",
           ntohs(public_address.sin_port), ntohs(internal_address.sin_port),
           (double)(resident_bytes() - before) / count);
    fflush(stdout);
    serve(atol(argv[2]) * 1000);
}
