/* See stun.h. `wire.stun.peek_username` is the same walk in Python. */
#include "stun.h"

#define HEADER_BYTES 20
#define COOKIE 0x2112a442u
#define BINDING_REQUEST 0x0001
#define CLASS_BITS 0x0110
#define RESPONSE_BIT 0x0100
#define USERNAME 0x0006
#define MESSAGE_INTEGRITY 0x0008
#define MAX_ATTRIBUTES 32
#define MAX_USERNAME_BYTES 513

static unsigned read16(const uint8_t *data)
{
    return (unsigned)data[0] << 8 | data[1];
}

static uint32_t read32(const uint8_t *data)
{
    return (uint32_t)read16(data) << 16 | read16(data + 2);
}

bool is_stun(const uint8_t *data)
{
    return data[0] <= 3;
}

bool is_media(const uint8_t *data)
{
    return (data[0] >= 20 && data[0] <= 63) || (data[0] >= 128 && data[0] <= 191);
}

bool stun_is_sound(const uint8_t *data, size_t length)
{
    return length >= HEADER_BYTES && read32(data + 4) == COOKIE && length % 4 == 0 &&
           read16(data + 2) == length - HEADER_BYTES;
}

bool stun_is_request(const uint8_t *data)
{
    return (read16(data) & CLASS_BITS) == 0;
}

bool stun_is_response(const uint8_t *data)
{
    return (read16(data) & RESPONSE_BIT) != 0;
}

bool stun_is_check(const uint8_t *data, size_t length)
{
    bool named = false;
    size_t offset = HEADER_BYTES;
    if (read16(data) != BINDING_REQUEST)
        return false;
    for (int i = 0; i < MAX_ATTRIBUTES && offset < length; i++) {
        unsigned kind = read16(data + offset); /* 4 bytes are there: all lengths are 4n */
        size_t value = read16(data + offset + 2);
        offset += 4 + ((value + 3) & ~(size_t)3);
        if (offset > length)
            return false;
        if (kind == MESSAGE_INTEGRITY)
            return named;
        if (kind == USERNAME) {
            if (named || value > MAX_USERNAME_BYTES)
                return false;
            named = true;
        }
    }
    return named && offset == length;
}
