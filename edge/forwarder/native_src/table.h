/* A hash table of entries that lie in one array: open addressing with linear probing.

   An entry is a struct that begins with `struct entry` and then the key's bytes. Strangers choose
   the keys, so the hash is keyed and its key random. An entry's home is its hash scaled to the
   number of places (fastrange), so that number needs no power of two; taking one out shifts its
   followers back, so there are no tombstones and a table never gets slower with age. */
#ifndef EDGE_TABLE_H
#define EDGE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct entry {
    uint32_t hash; /* 0 where there is no entry */
};

struct table {
    void *memory;
    uint8_t *places; /* in `memory`, on a cache line */
    uint32_t size; /* places */
    uint32_t count;
    uint32_t limit; /* a fixed table takes no more than this; 0: it grows */
    uint32_t key_bytes;
    uint32_t entry_bytes;
    uint64_t secret[2];
};

/* All but `find` and the hash return false or NULL when memory is short; `put` also at the limit. */
bool table_open(struct table *table, size_t key_bytes, size_t entry_bytes, uint32_t limit);
void table_close(struct table *table);
uint32_t table_hash(const struct table *table, const void *key);
void table_prefetch(const struct table *table, uint32_t hash);
void *table_find(const struct table *table, const void *key, uint32_t hash);
/* The entry of a key, made where there is none: all zero but for the key. */
void *table_put(struct table *table, const void *key, uint32_t hash);
void table_remove(struct table *table, const void *key, uint32_t hash);
/* The entry in a place, or NULL. */
const void *table_at(const struct table *table, uint32_t place);

#endif
