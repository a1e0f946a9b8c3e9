/* See address.h. Everything is copied byte by byte: network buffers are not aligned. */
#include "address.h"

#include <string.h>

#define CLIENT_HOST 2
#define PROXY_HOST 18
#define CLIENT_PORT 34
#define PROXY_PORT 36

static const uint8_t magic[MAGIC_BYTES] = {0x56, 0xec};
static const uint8_t v4_mapped[12] = {[10] = 0xff, [11] = 0xff}; /* RFC 4291, 2.5.5.2 */

static socklen_t to_v4(const struct endpoint *endpoint, struct sockaddr_in *to)
{
    if (memcmp(endpoint->host, v4_mapped, sizeof v4_mapped) != 0)
        return 0;
    memset(to, 0, sizeof *to);
    to->sin_family = AF_INET;
    memcpy(&to->sin_addr, endpoint->host + sizeof v4_mapped, 4);
    memcpy(&to->sin_port, endpoint->port, 2);
    return sizeof *to;
}

static socklen_t to_v6(const struct endpoint *endpoint, struct sockaddr_in6 *to)
{
    memset(to, 0, sizeof *to);
    to->sin6_family = AF_INET6;
    memcpy(&to->sin6_addr, endpoint->host, 16);
    memcpy(&to->sin6_port, endpoint->port, 2);
    return sizeof *to;
}

socklen_t endpoint_to_socket(const struct endpoint *endpoint, int family, union socket_address *to)
{
    return family == AF_INET ? to_v4(endpoint, &to->v4) : to_v6(endpoint, &to->v6);
}

bool endpoint_from_socket(const union socket_address *from, struct endpoint *endpoint)
{
    if (from->any.sa_family == AF_INET) {
        memcpy(endpoint->host, v4_mapped, sizeof v4_mapped);
        memcpy(endpoint->host + sizeof v4_mapped, &from->v4.sin_addr, 4);
        memcpy(endpoint->port, &from->v4.sin_port, 2);
        return true;
    }
    if (from->any.sa_family == AF_INET6) {
        memcpy(endpoint->host, &from->v6.sin6_addr, 16);
        memcpy(endpoint->port, &from->v6.sin6_port, 2);
        return true;
    }
    return false;
}

bool endpoint_equal(const struct endpoint *one, const struct endpoint *other)
{
    return memcmp(one, other, sizeof *one) == 0;
}

void path_write(uint8_t *path, const struct endpoint *client, const struct endpoint *proxy)
{
    memcpy(path, magic, sizeof magic);
    memcpy(path + CLIENT_HOST, client->host, 16);
    memcpy(path + PROXY_HOST, proxy->host, 16);
    memcpy(path + CLIENT_PORT, client->port, 2);
    memcpy(path + PROXY_PORT, proxy->port, 2);
}

bool path_has_magic(const uint8_t *path)
{
    return memcmp(path, magic, sizeof magic) == 0;
}

static struct endpoint read_endpoint(const uint8_t *host, const uint8_t *port)
{
    struct endpoint endpoint;
    memcpy(endpoint.host, host, 16);
    memcpy(endpoint.port, port, 2);
    return endpoint;
}

struct endpoint path_client(const uint8_t *path)
{
    return read_endpoint(path + CLIENT_HOST, path + CLIENT_PORT);
}

struct endpoint path_proxy(const uint8_t *path)
{
    return read_endpoint(path + PROXY_HOST, path + PROXY_PORT);
}
