/* Core's flows: the FlowStore of protocol.py. */
#include "core.h"

#include <stdlib.h>
#include <string.h>

#define TENTHS 10.0

static uint32_t to_tenths(double seconds)
{
    if (!(seconds > 0))
        return 0;
    double tenths = seconds * TENTHS + 0.5;
    return tenths < UINT32_MAX ? (uint32_t)tenths : UINT32_MAX;
}

PyObject *core_put(PyObject *object, PyObject *arguments)
{
    struct forwarder *f = &((Core *)object)->forwarder;
    const char *path;
    Py_ssize_t length;
    long long owner, challenger;
    double heard, challenger_heard, save_at;
    if (!PyArg_ParseTuple(arguments, "y#LdLdd", &path, &length, &owner, &heard, &challenger,
                          &challenger_heard, &save_at) ||
        !check_path(path, length) || !check_hop(owner, 1) || !check_hop(challenger, 0))
        return NULL;
    forwarder_lock(f);
    struct flow *flow = table_put(&f->flows, path + MAGIC_BYTES, flow_hash(f, (const uint8_t *)path));
    if (flow != NULL) {
        flow->owner = (uint32_t)owner;
        flow->heard = to_tenths(heard);
        flow->challenger = (uint32_t)challenger;
        flow->challenger_heard = to_tenths(challenger_heard);
        flow->save_at = to_tenths(save_at);
    }
    forwarder_unlock(f);
    return PyBool_FromLong(flow != NULL);
}

static PyObject *flow_fields(const struct flow *flow)
{
    return Py_BuildValue("(kdkdd)", (unsigned long)flow->owner, flow->heard / TENTHS,
                         (unsigned long)flow->challenger, flow->challenger_heard / TENTHS,
                         flow->save_at / TENTHS);
}

PyObject *core_get(PyObject *object, PyObject *arguments)
{
    struct forwarder *f = &((Core *)object)->forwarder;
    const char *path;
    Py_ssize_t length;
    struct flow found;
    if (!PyArg_ParseTuple(arguments, "y#", &path, &length) || !check_path(path, length))
        return NULL;
    uint32_t hash = flow_hash(f, (const uint8_t *)path);
    forwarder_lock(f);
    const struct flow *flow = flow_find(f, (const uint8_t *)path, hash);
    if (flow != NULL)
        found = *flow;
    forwarder_unlock(f);
    if (flow == NULL)
        Py_RETURN_NONE;
    return flow_fields(&found);
}

PyObject *core_remove(PyObject *object, PyObject *arguments)
{
    struct forwarder *f = &((Core *)object)->forwarder;
    const char *path;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(arguments, "y#", &path, &length) || !check_path(path, length))
        return NULL;
    forwarder_lock(f);
    table_remove(&f->flows, path + MAGIC_BYTES, flow_hash(f, (const uint8_t *)path));
    forwarder_unlock(f);
    Py_RETURN_NONE;
}

PyObject *core_flow_count(PyObject *object, PyObject *Py_UNUSED(none))
{
    struct forwarder *f = &((Core *)object)->forwarder;
    forwarder_lock(f);
    uint32_t count = f->flows.count;
    forwarder_unlock(f);
    return PyLong_FromUnsignedLong(count);
}

/* Copy the flows in some places; returns how many. */
static size_t copy_flows(struct forwarder *f, uint32_t from, uint32_t to, double heard_before,
                         uint32_t hop, struct flow *copies)
{
    size_t count = 0;
    forwarder_lock(f);
    for (uint32_t place = from; place < to; place++) {
        const struct flow *flow = table_at(&f->flows, place);
        if (flow != NULL && flow->heard / TENTHS < heard_before &&
            (hop == 0 || flow->owner == hop || flow->challenger == hop))
            copies[count++] = *flow;
    }
    forwarder_unlock(f);
    return count;
}

static PyObject *path_and_fields(const struct flow *flow)
{
    uint8_t path[PATH_BYTES] = {0x56, 0xec};
    memcpy(path + MAGIC_BYTES, flow->key, PATH_KEY_BYTES);
    PyObject *fields = flow_fields(flow);
    if (fields == NULL)
        return NULL;
    return Py_BuildValue("(y#N)", (const char *)path, (Py_ssize_t)PATH_BYTES, fields);
}

static PyObject *flow_list(const struct flow *flows, size_t count)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *item = path_and_fields(&flows[i]);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

PyObject *core_scan(PyObject *object, PyObject *arguments)
{
    struct forwarder *f = &((Core *)object)->forwarder;
    long long cursor, limit, hop;
    double heard_before;
    if (!PyArg_ParseTuple(arguments, "LLdL", &cursor, &limit, &heard_before, &hop) ||
        !check_hop(hop, 0))
        return NULL;
    uint32_t size = f->flows.size;
    if (cursor < 0 || cursor > size || limit < 1)
        return PyErr_Format(PyExc_ValueError, "a cursor is what the last scan returned");
    uint32_t from = (uint32_t)cursor;
    uint32_t to = limit < size - from ? from + (uint32_t)limit : size;
    struct flow *copies = aligned_alloc(_Alignof(struct flow), (to - from + 1) * sizeof *copies);
    if (copies == NULL)
        return PyErr_NoMemory();
    size_t count = copy_flows(f, from, to, heard_before, (uint32_t)hop, copies);
    PyObject *list = flow_list(copies, count);
    free(copies);
    if (list == NULL)
        return NULL;
    return Py_BuildValue("(kN)", to < size ? (unsigned long)to : 0ul, list);
}
