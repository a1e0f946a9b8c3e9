#include "libcrypto.h"

#include <dlfcn.h>
#include <string.h>

struct libcrypto crypto;

/* Once found it stays open: the pointers are used until the process ends. */
static void *open_library(void)
{
    static const char *const names[] = {"libcrypto.so.3", "libcrypto.so.4", "libcrypto.so.1.1"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (library != NULL)
            return library;
    }
    return NULL;
}

static bool find(void *library, const char *name, void *place)
{
    void *symbol = dlsym(library, name);
    memcpy(place, &symbol, sizeof symbol); /* ISO C has no cast from data to function */
    return symbol != NULL;
}

bool libcrypto_load(void)
{
    void *library = open_library();
    if (library == NULL)
        return false;
#define FIND(name) find(library, #name, &crypto.name)
    return FIND(EVP_CIPHER_CTX_new) && FIND(EVP_CIPHER_CTX_free) && FIND(EVP_CIPHER_CTX_ctrl) &&
           FIND(EVP_aes_128_ctr) && FIND(EVP_aes_128_gcm) && FIND(EVP_aes_256_gcm) &&
           FIND(EVP_CipherInit_ex) && FIND(EVP_CipherUpdate) && FIND(EVP_CipherFinal_ex) &&
           FIND(SHA1_Init) && FIND(SHA1_Update) && FIND(SHA1_Final) && FIND(CRYPTO_memcmp) &&
           FIND(OPENSSL_cleanse);
#undef FIND
}
