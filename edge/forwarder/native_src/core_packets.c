/* Core's hops, and the datagrams that go between Python and the loop. */
#include "core.h"

#include <stdlib.h>

/* Hops. */

PyObject *core_set_hop(PyObject *object, PyObject *arguments)
{
    struct forwarder *f = &((Core *)object)->forwarder;
    const char *address_data, *public_data;
    Py_ssize_t address_length, public_length;
    long long number, group;
    struct endpoint address, public;
    if (!PyArg_ParseTuple(arguments, "Ly#Lz#", &number, &address_data, &address_length, &group,
                          &public_data, &public_length) ||
        !check_hop(number, 1) || !read_endpoint(address_data, address_length, &address))
        return NULL;
    if (public_data != NULL && !read_endpoint(public_data, public_length, &public))
        return NULL;
    forwarder_lock(f);
    bool set = hop_set(f, (uint32_t)number, &address, group, public_data != NULL ? &public : NULL);
    forwarder_unlock(f);
    if (!set)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject *core_remove_hop(PyObject *object, PyObject *arguments)
{
    struct forwarder *f = &((Core *)object)->forwarder;
    long long number;
    if (!PyArg_ParseTuple(arguments, "L", &number) || !check_hop(number, 1))
        return NULL;
    forwarder_lock(f);
    hop_remove(f, (uint32_t)number);
    forwarder_unlock(f);
    Py_RETURN_NONE;
}

/* Datagrams. */

static PyObject *raised_list(struct raised *const *items, unsigned count)
{
    PyObject *list = PyList_New(0);
    for (unsigned i = 0; list != NULL && i < count; i++) {
        const struct raised *one = items[i];
        PyObject *item = Py_BuildValue("(y#y#k)", (const char *)one->path, (Py_ssize_t)PATH_BYTES,
                                       (const char *)one->payload, (Py_ssize_t)one->length,
                                       (unsigned long)one->sender);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

PyObject *core_take(PyObject *object, PyObject *Py_UNUSED(none))
{
    struct raised *items[2 * RAISED_BATCH];
    unsigned count = take_raised(&((Core *)object)->forwarder, items);
    PyObject *list = raised_list(items, count);
    for (unsigned i = 0; i < count; i++)
        free(items[i]);
    return list;
}

PyObject *core_clear_stale(PyObject *object, PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(clear_stale(&((Core *)object)->forwarder));
}

/* Send what was decided on; returns whether all of it, one datagram at most, went out. */
static PyObject *send_decided(Core *self, struct verdicts *v, int public_fd, int internal_fd)
{
    struct forwarder *f = &self->forwarder;
    outbox_send(self->to_public, public_fd, f, v->tally);
    outbox_send(self->to_internal, internal_fd, f, v->tally);
    verdicts_tell(v);
    bool sent = v->tally->of[PACKETS_IN] + v->tally->of[PACKETS_OUT] > 0;
    tally_add(f, v->tally);
    return PyBool_FromLong(sent);
}

PyObject *core_forward(PyObject *object, PyObject *arguments)
{
    Core *self = (Core *)object;
    struct tally tally = {{0}};
    struct verdicts v = {&self->forwarder, self->to_public, self->to_internal, &tally, false, false};
    const char *path, *payload;
    Py_ssize_t path_length, length;
    long long hop;
    int internal_fd;
    if (!PyArg_ParseTuple(arguments, "y#y#Li", &path, &path_length, &payload, &length, &hop,
                          &internal_fd) ||
        !check_path(path, path_length) || !check_hop(hop, 0))
        return NULL;
    forwarder_lock(&self->forwarder);
    decide_forward(&v, (const uint8_t *)path, (const uint8_t *)payload, (size_t)length,
                   (uint32_t)hop);
    forwarder_unlock(&self->forwarder);
    return send_decided(self, &v, -1, internal_fd);
}

PyObject *core_deliver(PyObject *object, PyObject *arguments)
{
    Core *self = (Core *)object;
    struct tally tally = {{0}};
    struct verdicts v = {&self->forwarder, self->to_public, self->to_internal, &tally, false, false};
    const char *path, *payload;
    Py_ssize_t path_length, length;
    int public_fd, internal_fd;
    if (!PyArg_ParseTuple(arguments, "y#y#ii", &path, &path_length, &payload, &length, &public_fd,
                          &internal_fd) ||
        !check_path(path, path_length))
        return NULL;
    forwarder_lock(&self->forwarder);
    decide_deliver(&v, (const uint8_t *)path, (const uint8_t *)payload, (size_t)length);
    forwarder_unlock(&self->forwarder);
    return send_decided(self, &v, public_fd, internal_fd);
}

PyObject *core_counts(PyObject *object, PyObject *Py_UNUSED(none))
{
    struct forwarder *f = &((Core *)object)->forwarder;
    PyObject *counts = PyDict_New();
    for (int i = 0; counts != NULL && i < COUNTS; i++) {
        uint64_t count = atomic_load_explicit(&f->counts[i], memory_order_relaxed);
        PyObject *number = PyLong_FromUnsignedLongLong(count);
        if (number == NULL || PyDict_SetItemString(counts, count_names[i], number) < 0)
            Py_CLEAR(counts);
        Py_XDECREF(number);
    }
    return counts;
}

PyObject *core_raised_fd(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((Core *)object)->forwarder.raised_fd);
}

PyObject *core_stale_fd(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((Core *)object)->forwarder.stale_fd);
}
