/* What the relay must know of a datagram's first bytes (RFC 7983, RFC 8489). */
#ifndef EDGE_STUN_H
#define EDGE_STUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The datagram, which is not empty, claims to be STUN. */
bool is_stun(const uint8_t *data);
/* DTLS, RTP or RTCP. */
bool is_media(const uint8_t *data);
/* A whole STUN header: 20 bytes, the magic cookie, and the length of the rest. */
bool stun_is_sound(const uint8_t *data, size_t length);
/* The next three are for sound STUN. */
bool stun_is_request(const uint8_t *data);
bool stun_is_response(const uint8_t *data);
/* A Binding request with one USERNAME and sound attributes, up to MESSAGE-INTEGRITY. */
bool stun_is_check(const uint8_t *data, size_t length);

#endif
