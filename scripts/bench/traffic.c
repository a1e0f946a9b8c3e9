/* Traffic for a forwarder: clients on one side, a transceiver on the other, and a stop watch.
 *
 *   traffic FLOWS_FILE
 *
 * Prints its transceiver's port and its clients' ports, and waits for a line, by which time
 * FLOWS_FILE is written: 4 bytes of IPv4 address and 2 of port a flow, in network order. Then each
 * line "PUBLIC INTERNAL PID RATE FLOWS WARM_MS MS" is a run, answered by a line of JSON. PID 0
 * sends without a forwarder between. Packets leave evenly, every other one in the other direction,
 * each of the next flow of a fixed permutation, so that few sockets make any number of clients:
 * the source address of a packet is chosen by IP_PKTINFO, all of 127.0.0.0/8 being ours.
 *
 * Arrival times are the kernel's (SO_TIMESTAMPNS), so nothing here has to wait for a packet: a
 * forwarder's sends wake nobody, and its cost is its own. Its CPU time is read at both ends of the
 * measured time, and a packet counts that was sent in between and came to the right place.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CLIENT_SOCKETS = 4,
    CHUNK = 16,
    TAKE = 64,
    HEADER = 38,
    PAYLOAD = 160,
    PACE_NS = 50000,
    COLLECT_NS = 500000,
    STALL_NS = 20000000,
    SETTLE_NS = 60000000,
    MAX_DELAYS = 1 << 22,
    SOCKET_BUFFER = 4 << 20,
    STRIDE = 61, /* prime to any number of flows that is used */
};

struct client { /* as in FLOWS_FILE, in network order */
    uint8_t host[4];
    uint8_t port[2];
};

struct stamp { /* in a payload, behind the bytes of an RTP header */
    uint64_t sent_ns;
    uint32_t run, flow;
};

struct control {
    _Alignas(struct cmsghdr) char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))];
};

struct lane { /* a socket, with the packets that are about to leave by it */
    int fd;
    uint16_t port;
    unsigned count;
    struct mmsghdr messages[CHUNK];
    struct iovec parts[CHUNK];
    struct sockaddr_in targets[CHUNK];
    struct control controls[CHUNK];
    uint8_t packets[CHUNK][HEADER + PAYLOAD];
};

struct result {
    uint64_t sent[2], received[2], wrong;
    uint32_t *delays;
    size_t delay_count;
};

static struct lane lanes[1 + CLIENT_SOCKETS]; /* the transceiver's is the first */
static struct client *clients;
static uint64_t flow_count;
static struct sockaddr_in forwarder[2];
static int direct;
static uint32_t run;
static struct result result;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    if (clock_gettime(clock, &now)) die("clock_gettime");
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static uint64_t cpu_ns(pid_t pid) {
    clockid_t clock = CLOCK_PROCESS_CPUTIME_ID;
    if (pid && clock_getcpuclockid(pid, &clock)) die("the forwarder is gone");
    return clock_ns(clock);
}

static void sleep_until(uint64_t at) {
    struct timespec until = {at / 1000000000, at % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static void open_lane(struct lane *lane, in_addr_t host) {
    int size = SOCKET_BUFFER, on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(host)}};
    socklen_t length = sizeof address;
    lane->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (lane->fd < 0 || bind(lane->fd, (void *)&address, sizeof address)) die("bind");
    setsockopt(lane->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(lane->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(lane->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    setsockopt(lane->fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
    getsockname(lane->fd, (void *)&address, &length);
    lane->port = ntohs(address.sin_port);
}

static void prepare(struct lane *lane) {
    static const uint8_t rtp[12] = {0x80, 111};
    for (int i = 0; i < CHUNK; i++) {
        struct msghdr *header = &lane->messages[i].msg_hdr;
        struct cmsghdr *control = (void *)lane->controls[i].bytes;
        *control = (struct cmsghdr){CMSG_LEN(sizeof(struct in_pktinfo)), IPPROTO_IP, IP_PKTINFO};
        lane->targets[i].sin_family = AF_INET;
        *header = (struct msghdr){.msg_name = &lane->targets[i], .msg_iovlen = 1,
            .msg_namelen = sizeof lane->targets[i], .msg_iov = &lane->parts[i]};
        for (int at = HEADER; at < HEADER + PAYLOAD; at++) lane->packets[i][at] = rand();
        memcpy(lane->packets[i] + HEADER, rtp, sizeof rtp);
    }
}

static void flush(struct lane *lane) {
    uint64_t now = clock_ns(CLOCK_REALTIME);
    if (!lane->count) return;
    for (unsigned i = 0; i < lane->count; i++)
        memcpy(lane->packets[i] + HEADER + 12, &now, sizeof now);
    int sent = sendmmsg(lane->fd, lane->messages, lane->count, 0);
    result.sent[lane == lanes] += sent > 0 ? sent : 0;
    lane->count = 0;
}

/* One packet in 16 looks like DTLS application data, the others like RTP. */
static uint8_t *push(struct lane *lane, uint32_t flow, const struct sockaddr_in *to, int framed) {
    if (lane->count == CHUNK) flush(lane);
    unsigned i = lane->count++;
    uint8_t *packet = lane->packets[i];
    struct stamp stamp = {0, run, flow};
    memcpy(packet + HEADER + 12, &stamp, sizeof stamp);
    packet[HEADER] = flow % 16 ? 0x80 : 23;
    lane->parts[i] = framed ? (struct iovec){packet, HEADER + PAYLOAD}
                            : (struct iovec){packet + HEADER, PAYLOAD};
    lane->targets[i] = *to;
    return packet;
}

static struct lane *lane_of(const struct client *client) {
    uint16_t port = client->port[0] << 8 | client->port[1];
    for (int i = 1; i < CLIENT_SOCKETS; i++)
        if (lanes[i].port == port) return &lanes[i];
    return &lanes[CLIENT_SOCKETS];
}

static void push_inwards(uint32_t flow) {
    struct lane *lane = lane_of(&clients[flow]);
    push(lane, flow, &forwarder[0], 0);
    unsigned i = lane->count - 1;
    struct in_pktinfo *info = (void *)CMSG_DATA((struct cmsghdr *)lane->controls[i].bytes);
    memcpy(&info->ipi_spec_dst, clients[flow].host, 4);
    lane->messages[i].msg_hdr.msg_control = &lane->controls[i];
    lane->messages[i].msg_hdr.msg_controllen = sizeof lane->controls[i];
}

static void push_outwards(uint32_t flow) {
    struct sockaddr_in target = {.sin_family = AF_INET};
    memcpy(&target.sin_addr, clients[flow].host, 4);
    memcpy(&target.sin_port, clients[flow].port, 2);
    uint8_t *header = push(lanes, flow, direct ? &target : &forwarder[1], !direct);
    memset(header, 0, HEADER);
    memcpy(header, "\x56\xec", 2);
    header[12] = header[13] = header[28] = header[29] = 0xff;
    memcpy(header + 14, clients[flow].host, 4);
    memcpy(header + 30, &forwarder[0].sin_addr, 4);
    memcpy(header + 34, clients[flow].port, 2);
    memcpy(header + 36, &forwarder[0].sin_port, 2);
}

/* Where a packet says it came from or has come to, against the flow that it was sent for. */
static int right_place(struct lane *lane, const uint8_t *data, struct in_addr host, uint32_t flow) {
    struct client found;
    uint16_t port = htons(lane->port);
    memcpy(found.host, lane == lanes ? data + 14 : (void *)&host, 4);
    memcpy(found.port, lane == lanes ? data + 34 : (void *)&port, 2);
    return direct || (flow < flow_count && !memcmp(&found, &clients[flow], sizeof found));
}

static void account(struct lane *lane, struct msghdr *message, const uint8_t *data, size_t length) {
    struct timespec at = {0};
    struct in_pktinfo info = {0};
    struct stamp stamp;
    size_t header = lane == lanes && !direct ? HEADER : 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part))
        if (part->cmsg_level == SOL_SOCKET) memcpy(&at, CMSG_DATA(part), sizeof at);
        else memcpy(&info, CMSG_DATA(part), sizeof info);
    if (length != header + PAYLOAD) return;
    memcpy(&stamp, data + header + 12, sizeof stamp);
    if (stamp.run != run) return; /* of the time before the measured one */
    if (!right_place(lane, data, info.ipi_addr, stamp.flow)) {
        result.wrong++;
        return;
    }
    result.received[lane != lanes]++;
    uint64_t arrived = at.tv_sec * 1000000000ull + at.tv_nsec;
    if (result.delay_count < MAX_DELAYS)
        result.delays[result.delay_count++] = arrived > stamp.sent_ns ? arrived - stamp.sent_ns : 0;
}

static void collect(struct lane *lane) {
    static struct mmsghdr messages[TAKE];
    static struct iovec parts[TAKE];
    static uint8_t data[TAKE][512];
    static _Alignas(struct cmsghdr) char controls[TAKE][128];
    int count;
    do {
        for (int i = 0; i < TAKE; i++) {
            parts[i] = (struct iovec){data[i], sizeof data[i]};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1,
                .msg_control = controls[i], .msg_controllen = sizeof controls[i]};
        }
        count = recvmmsg(lane->fd, messages, TAKE, MSG_DONTWAIT, NULL);
        for (int i = 0; i < count; i++)
            account(lane, &messages[i].msg_hdr, data[i], messages[i].msg_len);
    } while (count == TAKE);
}

static void collect_all(void) {
    for (int i = 0; i <= CLIENT_SOCKETS; i++) collect(&lanes[i]);
}

static void send_packets(uint64_t from, uint64_t to) {
    for (uint64_t i = from; i < to; i++) {
        uint32_t flow = i / 2 * STRIDE % flow_count;
        if (i % 2) push_outwards(flow);
        else push_inwards(flow);
    }
    for (int i = 0; i <= CLIENT_SOCKETS; i++) flush(&lanes[i]);
}

/* Sends evenly for a while. What a stall of this process kept back is not made up for. */
static uint64_t drive(uint64_t first, uint64_t rate, uint64_t milliseconds) {
    uint64_t start = clock_ns(CLOCK_MONOTONIC), now = start, collected = 0, sent = 0;
    while (now < start + milliseconds * 1000000) {
        uint64_t due = (now - start) * rate / 1000000000 + 1;
        if (due - sent > rate * STALL_NS / 1000000000 + 1) sent = due - 1;
        send_packets(first + sent, first + due);
        sent = due;
        if (now - collected >= COLLECT_NS) {
            collect_all();
            collected = now;
        }
        uint64_t next = start + sent * 1000000000 / rate;
        sleep_until(next > now + PACE_NS ? next : now + PACE_NS);
        now = clock_ns(CLOCK_MONOTONIC);
    }
    return first + sent;
}

static int by_size(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

static uint32_t percentile(double percent) {
    size_t at = result.delay_count * percent / 100;
    return result.delay_count ? result.delays[at < result.delay_count ? at : at - 1] : 0;
}

static void measure(pid_t pid, uint64_t rate, uint64_t warm_ms, uint64_t ms) {
    run++;
    uint64_t index = drive(0, rate, warm_ms);
    collect_all();
    result = (struct result){.delays = result.delays};
    run++;
    uint64_t own = cpu_ns(0), cpu = cpu_ns(pid), start = clock_ns(CLOCK_MONOTONIC);
    drive(index, rate, ms);
    uint64_t end = clock_ns(CLOCK_MONOTONIC);
    cpu = cpu_ns(pid) - cpu;
    own = cpu_ns(0) - own;
    sleep_until(end + SETTLE_NS);
    collect_all();
    qsort(result.delays, result.delay_count, sizeof *result.delays, by_size);
    printf("{\"seconds\": %.6f, \"sent_in\": %lu, \"sent_out\": %lu, \"received_in\": %lu, "
           "\"received_out\": %lu, \"wrong\": %lu, \"cpu_ns\": %lu, \"own_cpu_ns\": %lu, "
           "\"p50_ns\": %u, \"p99_ns\": %u, \"max_ns\": %u}\n",
           (end - start) / 1e9, result.sent[0], result.sent[1], result.received[0],
           result.received[1], result.wrong, cpu, own, percentile(50), percentile(99),
           percentile(100));
    fflush(stdout);
}

static void read_clients(const char *name) {
    FILE *file = fopen(name, "rb");
    if (!file || fseek(file, 0, SEEK_END)) die(name);
    size_t count = ftell(file) / sizeof *clients;
    rewind(file);
    clients = calloc(count, sizeof *clients);
    if (!clients || fread(clients, sizeof *clients, count, file) != count) die(name);
    fclose(file);
}

int main(int argc, char **argv) {
    char line[256];
    int public, internal, pid;
    unsigned long rate, warm_ms, ms;
    if (argc != 2) return 2;
    for (int i = 0; i <= CLIENT_SOCKETS; i++) {
        open_lane(&lanes[i], i ? INADDR_ANY : INADDR_LOOPBACK);
        prepare(&lanes[i]);
    }
    prctl(PR_SET_TIMERSLACK, 1);
    result.delays = calloc(MAX_DELAYS, sizeof *result.delays);
    printf("{\"hop\": %d, \"clients\": [%d, %d, %d, %d]}\n", lanes[0].port, lanes[1].port,
           lanes[2].port, lanes[3].port, lanes[4].port);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 0;
    read_clients(argv[1]);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%d %d %d %lu %lu %lu %lu", &public, &internal, &pid, &rate, &flow_count,
                   &warm_ms, &ms) != 7) return 2;
        direct = !pid;
        for (int i = 0; i < 2; i++)
            forwarder[i] = (struct sockaddr_in){.sin_family = AF_INET,
                .sin_addr = {htonl(INADDR_LOOPBACK)}};
        forwarder[0].sin_port = htons(direct ? lanes[0].port : public);
        forwarder[1].sin_port = htons(internal);
        measure(pid, rate, warm_ms, ms);
    }
}
