/* The few functions of OpenSSL that SRTP needs, found at run time: no headers to build with, and a
 * machine without the library does without the offload. */
#ifndef EDGE_LIBCRYPTO_H
#define EDGE_LIBCRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct evp_cipher_st EVP_CIPHER;
typedef struct engine_st ENGINE;

/* SHA_CTX of openssl/sha.h; it has had this shape since 1998. */
struct sha1 {
    uint32_t h[5], low, high, data[16], used;
};

struct libcrypto {
    EVP_CIPHER_CTX *(*EVP_CIPHER_CTX_new)(void);
    void (*EVP_CIPHER_CTX_free)(EVP_CIPHER_CTX *);
    int (*EVP_CIPHER_CTX_ctrl)(EVP_CIPHER_CTX *, int, int, void *);
    const EVP_CIPHER *(*EVP_aes_128_ctr)(void);
    const EVP_CIPHER *(*EVP_aes_128_gcm)(void);
    const EVP_CIPHER *(*EVP_aes_256_gcm)(void);
    int (*EVP_CipherInit_ex)(EVP_CIPHER_CTX *, const EVP_CIPHER *, ENGINE *, const unsigned char *,
                             const unsigned char *, int);
    int (*EVP_CipherUpdate)(EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int);
    int (*EVP_CipherFinal_ex)(EVP_CIPHER_CTX *, unsigned char *, int *);
    int (*SHA1_Init)(struct sha1 *);
    int (*SHA1_Update)(struct sha1 *, const void *, size_t);
    int (*SHA1_Final)(unsigned char *, struct sha1 *);
    int (*CRYPTO_memcmp)(const void *, const void *, size_t);
    void (*OPENSSL_cleanse)(void *, size_t);
};

enum { GCM_GET_TAG = 0x10, GCM_SET_TAG = 0x11 }; /* EVP_CTRL_AEAD_... of openssl/evp.h */

extern struct libcrypto crypto;

/* Find them all; false when there is no such library. */
bool libcrypto_load(void);

#endif
