/* See table.h. The hash is SipHash-1-3 (Aumasson, Bernstein 2012): made for exactly this, the
   default of Rust's and CPython's tables, and 20 ns for a key of 36 bytes. */
#include "table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define CACHE_LINE 64
#define FIRST_SIZE 64 /* places of a table that grows */
#define MOST_PLACES (UINT32_MAX / 2)

struct sip {
    uint64_t v0, v1, v2, v3;
};

static uint64_t rotate(uint64_t word, int bits)
{
    return word << bits | word >> (64 - bits);
}

static void sip_round(struct sip *s)
{
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 = rotate(s->v0, 32) + s->v3;
    s->v2 += s->v1;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 = rotate(s->v2, 32);
}

static void sip_take(struct sip *s, uint64_t word)
{
    s->v3 ^= word;
    sip_round(s);
    s->v0 ^= word;
}

/* Words are read in the machine's own order: nobody else computes these hashes. */
static uint64_t siphash13(const uint64_t secret[2], const uint8_t *data, size_t length)
{
    struct sip s = {
        secret[0] ^ 0x736f6d6570736575, secret[1] ^ 0x646f72616e646f6d,
        secret[0] ^ 0x6c7967656e657261, secret[1] ^ 0x7465646279746573,
    };
    uint64_t last = (uint64_t)length << 56;
    size_t rest = length % 8;
    for (const uint8_t *end = data + length - rest; data < end; data += 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        sip_take(&s, word);
    }
    for (size_t i = 0; i < rest; i++)
        last |= (uint64_t)data[i] << 8 * i;
    sip_take(&s, last);
    s.v2 ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

static bool fill_random(void *to, size_t bytes)
{
    for (uint8_t *next = to; bytes > 0;) {
        ssize_t got = getrandom(next, bytes, 0);
        if (got < 0 && errno != EINTR)
            return false;
        if (got > 0) {
            next += got;
            bytes -= (size_t)got;
        }
    }
    return true;
}

/* calloc takes big areas from the kernel, which costs nothing for pages that are never touched. */
static bool allocate(struct table *table, uint32_t size)
{
    void *memory = calloc((size_t)size + CACHE_LINE / table->entry_bytes + 1, table->entry_bytes);
    if (memory == NULL)
        return false;
    table->memory = memory;
    table->places = (uint8_t *)(((uintptr_t)memory + CACHE_LINE - 1) & ~(uintptr_t)(CACHE_LINE - 1));
    table->size = size;
    table->count = 0;
    return true;
}

bool table_open(struct table *table, size_t key_bytes, size_t entry_bytes, uint32_t limit)
{
    memset(table, 0, sizeof *table);
    table->key_bytes = (uint32_t)key_bytes;
    table->entry_bytes = (uint32_t)entry_bytes;
    table->limit = limit;
    if (limit > MOST_PLACES)
        return false;
    return fill_random(table->secret, sizeof table->secret) &&
           allocate(table, limit != 0 ? limit + limit / 3 + FIRST_SIZE : FIRST_SIZE);
}

void table_close(struct table *table)
{
    free(table->memory);
    table->memory = NULL;
}

uint32_t table_hash(const struct table *table, const void *key)
{
    uint32_t hash = (uint32_t)(siphash13(table->secret, key, table->key_bytes) >> 32);
    return hash != 0 ? hash : 1;
}

static uint32_t home_of(const struct table *table, uint32_t hash)
{
    return (uint32_t)((uint64_t)hash * table->size >> 32);
}

static uint32_t after(const struct table *table, uint32_t place)
{
    return place + 1 < table->size ? place + 1 : 0;
}

static struct entry *entry_at(const struct table *table, uint32_t place)
{
    return (struct entry *)(void *)(table->places + (size_t)place * table->entry_bytes);
}

static bool holds(const struct table *table, const struct entry *entry, const void *key,
                  uint32_t hash)
{
    return entry->hash == hash && memcmp(entry + 1, key, table->key_bytes) == 0;
}

/* Where the key is, or the empty place where it would go. There always is an empty one. */
static uint32_t seek(const struct table *table, const void *key, uint32_t hash)
{
    uint32_t place = home_of(table, hash);
    for (const struct entry *entry = entry_at(table, place);
         entry->hash != 0 && !holds(table, entry, key, hash); entry = entry_at(table, place))
        place = after(table, place);
    return place;
}

void table_prefetch(const struct table *table, uint32_t hash)
{
    __builtin_prefetch(entry_at(table, home_of(table, hash)));
}

void *table_find(const struct table *table, const void *key, uint32_t hash)
{
    struct entry *entry = entry_at(table, seek(table, key, hash));
    return entry->hash != 0 ? entry : NULL;
}

const void *table_at(const struct table *table, uint32_t place)
{
    const struct entry *entry = entry_at(table, place);
    return entry->hash != 0 ? entry : NULL;
}

static bool grow(struct table *table)
{
    struct table old = *table;
    if (old.size > MOST_PLACES / 2 || !allocate(table, old.size * 2))
        return false;
    for (uint32_t place = 0; place < old.size; place++) {
        const struct entry *entry = table_at(&old, place);
        if (entry != NULL) {
            memcpy(entry_at(table, seek(table, entry + 1, entry->hash)), entry, old.entry_bytes);
            table->count++;
        }
    }
    table_close(&old);
    return true;
}

static bool make_room(struct table *table)
{
    if (table->limit != 0)
        return table->count < table->limit;
    return table->count < table->size / 4 * 3 || grow(table);
}

void *table_put(struct table *table, const void *key, uint32_t hash)
{
    struct entry *entry = table_find(table, key, hash);
    if (entry != NULL)
        return entry;
    if (!make_room(table))
        return NULL;
    entry = entry_at(table, seek(table, key, hash));
    entry->hash = hash;
    memcpy(entry + 1, key, table->key_bytes);
    table->count++;
    return entry;
}

/* Whether an entry at `place` with this home may move back to `gap`: its home is not between. */
static bool may_fill(uint32_t gap, uint32_t home, uint32_t place)
{
    return gap <= place ? home <= gap || home > place : home <= gap && home > place;
}

void table_remove(struct table *table, const void *key, uint32_t hash)
{
    uint32_t gap = seek(table, key, hash);
    if (entry_at(table, gap)->hash == 0)
        return;
    for (uint32_t place = after(table, gap);; place = after(table, place)) {
        const struct entry *entry = entry_at(table, place);
        if (entry->hash == 0)
            break;
        if (may_fill(gap, home_of(table, entry->hash), place)) {
            memcpy(entry_at(table, gap), entry, table->entry_bytes);
            gap = place;
        }
    }
    memset(entry_at(table, gap), 0, table->entry_bytes);
    table->count--;
}
