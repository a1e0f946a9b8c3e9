/* Addresses as the SPP header writes them, and as the kernel does. */
#ifndef EDGE_ADDRESS_H
#define EDGE_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define PATH_BYTES 38 /* the SPP header: magic, client, proxy, client port, proxy port */
#define PATH_KEY_BYTES 36 /* without the magic */
#define MAGIC_BYTES 2

/* An IPv6 or v4-mapped host and a port, both in network byte order; no padding. */
struct endpoint {
    uint8_t host[16];
    uint8_t port[2];
};

union socket_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* Write what a socket of `family` sends to; 0 when it can not reach this endpoint. */
socklen_t endpoint_to_socket(const struct endpoint *endpoint, int family, union socket_address *to);
/* Read a source; false for a family that is neither. */
bool endpoint_from_socket(const union socket_address *from, struct endpoint *endpoint);
bool endpoint_equal(const struct endpoint *one, const struct endpoint *other);

void path_write(uint8_t *path, const struct endpoint *client, const struct endpoint *proxy);
bool path_has_magic(const uint8_t *path);
struct endpoint path_client(const uint8_t *path);
struct endpoint path_proxy(const uint8_t *path);

#endif
