/* One direction of SRTP under one session key: RFC 3711 (AES-CM, HMAC-SHA1-80), RFC 7714 (GCM). */
#ifndef EDGE_SRTP_H
#define EDGE_SRTP_H

#include "libcrypto.h"

enum { CM_TAG_BYTES = 10, GCM_TAG_BYTES = 16, MAX_TAG_BYTES = 16 };

struct srtp {
    EVP_CIPHER_CTX *cipher;
    bool gcm, seals;
    uint8_t salt[14];
    struct sha1 inner, outer; /* HMAC-SHA1 with its key taken in; unused with GCM */
};

/* Keys of the session, not the master's. Without an authentication key it is GCM. */
bool srtp_open(struct srtp *srtp, bool seals, const uint8_t *key, size_t key_bytes,
               const uint8_t *salt, size_t salt_bytes, const uint8_t *authentication,
               size_t authentication_bytes);
void srtp_close(struct srtp *srtp);

static inline size_t srtp_tag_bytes(const struct srtp *srtp)
{
    return srtp->gcm ? GCM_TAG_BYTES : CM_TAG_BYTES;
}

/* Write ciphertext and tag behind the header; `packet` has room for both. */
bool srtp_seal(struct srtp *srtp, uint8_t *packet, size_t header_bytes, const uint8_t *payload,
               size_t payload_bytes, uint32_t ssrc, uint64_t index);

/* Read the payload of a packet of `size` bytes with its tag; false if it is not authentic. */
bool srtp_unseal(struct srtp *srtp, const uint8_t *packet, size_t header_bytes, size_t size,
                 uint8_t *payload, uint32_t ssrc, uint64_t index);

#endif
