#include "srtp.h"

#include <string.h>

enum { SHA1_BLOCK = 64, SHA1_BYTES = 20 };

/* HMAC (RFC 2104): the key's two blocks are hashed once, and copied for each packet. */
static void take_key(struct sha1 *sha1, const uint8_t *key, size_t key_bytes, uint8_t pad)
{
    uint8_t block[SHA1_BLOCK];
    memset(block, pad, sizeof block);
    for (size_t i = 0; i < key_bytes; i++)
        block[i] ^= key[i];
    crypto.SHA1_Init(sha1);
    crypto.SHA1_Update(sha1, block, sizeof block);
    crypto.OPENSSL_cleanse(block, sizeof block);
}

static const EVP_CIPHER *choose_cipher(bool gcm, size_t key_bytes)
{
    if (!gcm)
        return key_bytes == 16 ? crypto.EVP_aes_128_ctr() : NULL;
    if (key_bytes == 16)
        return crypto.EVP_aes_128_gcm();
    return key_bytes == 32 ? crypto.EVP_aes_256_gcm() : NULL;
}

bool srtp_open(struct srtp *srtp, bool seals, const uint8_t *key, size_t key_bytes,
               const uint8_t *salt, size_t salt_bytes, const uint8_t *authentication,
               size_t authentication_bytes)
{
    srtp->gcm = authentication_bytes == 0;
    srtp->seals = seals;
    const EVP_CIPHER *cipher = choose_cipher(srtp->gcm, key_bytes);
    if (cipher == NULL || salt_bytes != (srtp->gcm ? 12 : 14) || authentication_bytes > SHA1_BLOCK)
        return false;
    memcpy(srtp->salt, salt, salt_bytes);
    if (!srtp->gcm) {
        take_key(&srtp->inner, authentication, authentication_bytes, 0x36);
        take_key(&srtp->outer, authentication, authentication_bytes, 0x5c);
    }
    srtp->cipher = crypto.EVP_CIPHER_CTX_new();
    return srtp->cipher != NULL &&
           crypto.EVP_CipherInit_ex(srtp->cipher, cipher, NULL, key, NULL, seals) == 1;
}

void srtp_close(struct srtp *srtp)
{
    if (srtp->cipher != NULL)
        crypto.EVP_CIPHER_CTX_free(srtp->cipher);
    crypto.OPENSSL_cleanse(srtp, sizeof *srtp);
}

/* XOR a big-endian number into bytes. */
static void mix(uint8_t *bytes, uint64_t number, size_t count)
{
    for (size_t i = count; i-- > 0; number >>= 8)
        bytes[i] ^= (uint8_t)number;
}

/* The SSRC stands at byte 2 for GCM (RFC 7714, 8.1) and at byte 4 for CM (RFC 3711, 4.1.1). */
static bool set_nonce(struct srtp *srtp, uint32_t ssrc, uint64_t index)
{
    uint8_t nonce[16] = {0};
    memcpy(nonce, srtp->salt, sizeof srtp->salt);
    size_t at = srtp->gcm ? 2 : 4;
    mix(nonce + at, ssrc, 4);
    mix(nonce + at + 4, index, 6);
    return crypto.EVP_CipherInit_ex(srtp->cipher, NULL, NULL, NULL, nonce, srtp->seals) == 1;
}

/* The packet's bytes and the roll-over counter; RFC 3711, 4.2. */
static void make_tag(const struct srtp *srtp, const uint8_t *packet, size_t size, uint64_t index,
                     uint8_t *digest)
{
    uint8_t roc[4] = {0};
    mix(roc, index >> 16, 4);
    struct sha1 hash = srtp->inner;
    crypto.SHA1_Update(&hash, packet, size);
    crypto.SHA1_Update(&hash, roc, sizeof roc);
    crypto.SHA1_Final(digest, &hash);
    hash = srtp->outer;
    crypto.SHA1_Update(&hash, digest, SHA1_BYTES);
    crypto.SHA1_Final(digest, &hash);
}

bool srtp_seal(struct srtp *srtp, uint8_t *packet, size_t header_bytes, const uint8_t *payload,
               size_t payload_bytes, uint32_t ssrc, uint64_t index)
{
    uint8_t *body = packet + header_bytes, *tag = body + payload_bytes;
    int done;
    if (!set_nonce(srtp, ssrc, index))
        return false;
    if (srtp->gcm &&
        crypto.EVP_CipherUpdate(srtp->cipher, NULL, &done, packet, (int)header_bytes) != 1)
        return false;
    if (crypto.EVP_CipherUpdate(srtp->cipher, body, &done, payload, (int)payload_bytes) != 1)
        return false;
    if (srtp->gcm)
        return crypto.EVP_CipherFinal_ex(srtp->cipher, tag, &done) == 1 &&
               crypto.EVP_CIPHER_CTX_ctrl(srtp->cipher, GCM_GET_TAG, GCM_TAG_BYTES, tag) == 1;
    uint8_t digest[SHA1_BYTES];
    make_tag(srtp, packet, header_bytes + payload_bytes, index, digest);
    memcpy(tag, digest, CM_TAG_BYTES);
    return true;
}

static bool is_authentic(const struct srtp *srtp, const uint8_t *packet, size_t size,
                         uint64_t index)
{
    uint8_t digest[SHA1_BYTES];
    make_tag(srtp, packet, size, index, digest);
    return crypto.CRYPTO_memcmp(digest, packet + size, CM_TAG_BYTES) == 0;
}

bool srtp_unseal(struct srtp *srtp, const uint8_t *packet, size_t header_bytes, size_t size,
                 uint8_t *payload, uint32_t ssrc, uint64_t index)
{
    size_t sealed = size - srtp_tag_bytes(srtp);
    uint8_t tag[MAX_TAG_BYTES], rest[16];
    int done, body_bytes = (int)(sealed - header_bytes);
    const uint8_t *body = packet + header_bytes;
    if (!srtp->gcm)
        return is_authentic(srtp, packet, sealed, index) && set_nonce(srtp, ssrc, index) &&
               crypto.EVP_CipherUpdate(srtp->cipher, payload, &done, body, body_bytes) == 1;
    memcpy(tag, packet + sealed, GCM_TAG_BYTES);
    return set_nonce(srtp, ssrc, index) &&
           crypto.EVP_CipherUpdate(srtp->cipher, NULL, &done, packet, (int)header_bytes) == 1 &&
           crypto.EVP_CipherUpdate(srtp->cipher, payload, &done, body, body_bytes) == 1 &&
           crypto.EVP_CIPHER_CTX_ctrl(srtp->cipher, GCM_SET_TAG, GCM_TAG_BYTES, tag) == 1 &&
           crypto.EVP_CipherFinal_ex(srtp->cipher, rest, &done) == 1;
}
