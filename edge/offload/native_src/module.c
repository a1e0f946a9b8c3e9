/* edge.offload._native: a Plane for a socket, and a Stream for each session that lends its media.
 *
 * Everything runs on Trio's thread and under the GIL. Nothing here waits, and nothing calls back. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <string.h>
#include <time.h>

#include "plane.h"

typedef struct {
    PyObject_HEAD
    struct plane plane;
} Plane;

typedef struct {
    PyObject_HEAD
    Plane *plane;
    PyObject *hear;
    struct stream stream;
} Stream;

#define MAX_REST 0.01 /* seconds */

static PyTypeObject *stream_type;

static void free_object(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyObject *new_object(PyTypeObject *type)
{
    return ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
}

/* Plane. */

static PyObject *plane_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"descriptor", "endpoint_bytes", "seed", NULL};
    int descriptor, endpoint_bytes;
    unsigned long long seed;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "iiK", names, &descriptor,
                                     &endpoint_bytes, &seed))
        return NULL;
    if (endpoint_bytes < 1 || endpoint_bytes > MAX_ENDPOINT_BYTES)
        return PyErr_Format(PyExc_ValueError, "an endpoint is a sockaddr_in or sockaddr_in6");
    Plane *self = (Plane *)new_object(type);
    if (self == NULL)
        return NULL;
    if (!plane_open(&self->plane, descriptor, (socklen_t)endpoint_bytes, seed)) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void plane_dealloc(PyObject *object)
{
    plane_close(&((Plane *)object)->plane);
    free_object(object);
}

/* A tuple of what it is given, with the references; none if one of them is missing. (Py_BuildValue,
 * which reads a format each time, takes three times as long.) */
static PyObject *make_tuple(PyObject *const *items, Py_ssize_t count)
{
    PyObject *tuple = PyTuple_New(count);
    bool complete = tuple != NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        complete = complete && items[i] != NULL;
        if (tuple == NULL)
            Py_XDECREF(items[i]);
        else
            PyTuple_SetItem(tuple, i, items[i]);
    }
    if (!complete)
        Py_CLEAR(tuple);
    return tuple;
}

/* (hear, payload, index, timestamp); NULL without an error if it is not for the stream. */
static PyObject *hear_packet(struct stream *stream, const uint8_t *packet, size_t size, double now)
{
    struct place place;
    if (!stream_place(stream, packet, size, &place))
        return NULL;
    PyObject *payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)place.payload_bytes);
    if (payload == NULL)
        return NULL;
    uint64_t index = stream->incoming.next;
    uint8_t *bytes = (uint8_t *)PyBytes_AsString(payload);
    if (!stream_receive(stream, packet, size, &place, bytes, now)) {
        Py_DECREF(payload);
        return NULL;
    }
    Stream *owner = (Stream *)((char *)stream - offsetof(Stream, stream));
    PyObject *items[] = {Py_NewRef(owner->hear), payload, PyLong_FromUnsignedLongLong(index),
                         PyLong_FromUnsignedLong(place.timestamp)};
    return make_tuple(items, 4);
}

/* Sort a datagram into one of the lists. */
static int sort(Plane *self, int number, size_t size, double now, PyObject *datagrams,
                PyObject *heard)
{
    struct inbox *in = self->plane.inbox;
    const uint8_t *data = in->data[number];
    struct stream *stream = plane_find(&self->plane, number, size);
    PyObject *list = heard, *item = NULL;
    if (stream != NULL)
        item = hear_packet(stream, data + PATH_BYTES, size - PATH_BYTES, now);
    if (item == NULL && (stream == NULL || !PyErr_Occurred())) {
        const char *endpoint = (const char *)in->endpoints[number];
        PyObject *items[] = {PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size),
                             PyBytes_FromStringAndSize(endpoint,
                                                       (Py_ssize_t)self->plane.endpoint_bytes)};
        list = datagrams;
        item = make_tuple(items, 2);
    }
    if (item == NULL)
        return -1;
    int error = PyList_Append(list, item);
    Py_DECREF(item);
    return error;
}

static PyObject *plane_receive_method(PyObject *object, PyObject *argument)
{
    Plane *self = (Plane *)object;
    double now = PyFloat_AsDouble(argument);
    if (now == -1.0 && PyErr_Occurred())
        return NULL;
    int taken = plane_receive(&self->plane), too_long = 0;
    if (taken < 0 && taken != -EAGAIN) {
        errno = -taken;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *datagrams = PyList_New(0), *heard = PyList_New(0);
    bool done = datagrams != NULL && heard != NULL;
    for (int i = 0; done && i < taken; i++) {
        size_t size = self->plane.inbox->headers[i].msg_len;
        if (size >= ROOM)
            too_long++;
        else
            done = sort(self, i, size, now, datagrams, heard) == 0;
    }
    PyObject *items[] = {datagrams, heard, PyLong_FromLong(taken < 0 ? 0 : taken),
                         PyLong_FromLong(too_long)};
    PyObject *result = make_tuple(items, 4);
    if (!done)
        Py_CLEAR(result);
    return result;
}

static PyObject *plane_put_method(PyObject *object, PyObject *arguments)
{
    Plane *self = (Plane *)object;
    const char *header, *payload, *endpoint;
    Py_ssize_t header_bytes, payload_bytes, endpoint_bytes;
    if (!PyArg_ParseTuple(arguments, "y#y#y#", &header, &header_bytes, &payload, &payload_bytes,
                          &endpoint, &endpoint_bytes))
        return NULL;
    if (header_bytes + payload_bytes > MAX_PACKET_BYTES ||
        endpoint_bytes != (Py_ssize_t)self->plane.endpoint_bytes)
        return PyErr_Format(PyExc_ValueError, "not a datagram of this socket");
    uint8_t *room = plane_room(&self->plane);
    memcpy(room, header, (size_t)header_bytes);
    memcpy(room + header_bytes, payload, (size_t)payload_bytes);
    plane_put(&self->plane, (size_t)(header_bytes + payload_bytes), (const uint8_t *)endpoint);
    Py_RETURN_NONE;
}

static PyObject *plane_hold_method(PyObject *object, PyObject *unused)
{
    (void)unused;
    ((Plane *)object)->plane.held = true;
    Py_RETURN_NONE;
}

static PyObject *plane_flush_method(PyObject *object, PyObject *unused)
{
    (void)unused;
    Plane *self = (Plane *)object;
    self->plane.held = false;
    plane_flush(&self->plane);
    Py_RETURN_NONE;
}

/* Sleep; other threads may run, Trio's other tasks may not. */
static PyObject *plane_rest_method(PyObject *object, PyObject *argument)
{
    (void)object;
    double seconds = PyFloat_AsDouble(argument);
    if (seconds == -1.0 && PyErr_Occurred())
        return NULL;
    if (!(seconds > 0 && seconds <= MAX_REST))
        Py_RETURN_NONE;
    struct timespec rest = {0, (long)(seconds * 1e9)};
    Py_BEGIN_ALLOW_THREADS
    nanosleep(&rest, NULL);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* From now on nothing comes and nothing leaves: the descriptor may soon be another file's. */
static PyObject *plane_close_method(PyObject *object, PyObject *unused)
{
    (void)unused;
    ((Plane *)object)->plane.fd = -1;
    Py_RETURN_NONE;
}

/* How many were sent, and pairs of errno and how many were not, since the last call. */
static PyObject *plane_outcomes_method(PyObject *object, PyObject *unused)
{
    (void)unused;
    struct plane *plane = &((Plane *)object)->plane;
    PyObject *failed = PyList_New(0);
    for (int code = 0; failed != NULL && code < ERRNOS; code++) {
        if (plane->failed[code] == 0)
            continue;
        PyObject *pair = Py_BuildValue("(iK)", code, (unsigned long long)plane->failed[code]);
        if (pair == NULL || PyList_Append(failed, pair) < 0)
            Py_CLEAR(failed);
        Py_XDECREF(pair);
        plane->failed[code] = 0;
    }
    if (failed == NULL)
        return NULL;
    unsigned long long sent = plane->sent;
    plane->sent = 0;
    return Py_BuildValue("(KN)", sent, failed);
}

static PyObject *plane_stream_method(PyObject *object, PyObject *arguments)
{
    PyObject *hear;
    const uint8_t *keys[6];
    Py_ssize_t sizes[6];
    if (!PyArg_ParseTuple(arguments, "O(y#y#y#)(y#y#y#)", &hear, &keys[0], &sizes[0], &keys[1],
                          &sizes[1], &keys[2], &sizes[2], &keys[3], &sizes[3], &keys[4], &sizes[4],
                          &keys[5], &sizes[5]))
        return NULL;
    Stream *stream = (Stream *)new_object(stream_type);
    if (stream == NULL)
        return NULL;
    stream->plane = (Plane *)Py_NewRef(object);
    stream->hear = Py_NewRef(hear);
    if (srtp_open(&stream->stream.incoming.srtp, false, keys[0], (size_t)sizes[0], keys[1],
                  (size_t)sizes[1], keys[2], (size_t)sizes[2]) &&
        srtp_open(&stream->stream.outgoing.srtp, true, keys[3], (size_t)sizes[3], keys[4],
                  (size_t)sizes[4], keys[5], (size_t)sizes[5]))
        return (PyObject *)stream;
    Py_DECREF(stream);
    return PyErr_Format(PyExc_ValueError, "keys that fit no SRTP profile");
}

static PyMethodDef plane_methods[] = {
    {"receive", plane_receive_method, METH_O, NULL},
    {"put", plane_put_method, METH_VARARGS, NULL},
    {"hold", plane_hold_method, METH_NOARGS, NULL},
    {"flush", plane_flush_method, METH_NOARGS, NULL},
    {"rest", plane_rest_method, METH_O, NULL},
    {"close", plane_close_method, METH_NOARGS, NULL},
    {"outcomes", plane_outcomes_method, METH_NOARGS, NULL},
    {"stream", plane_stream_method, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot plane_slots[] = {
    {Py_tp_new, plane_new},
    {Py_tp_dealloc, plane_dealloc},
    {Py_tp_methods, plane_methods},
    {0, NULL},
};

static PyType_Spec plane_spec = {
    .name = "edge.offload._native.Plane",
    .basicsize = sizeof(Plane),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = plane_slots,
};

/* Stream. */

static void stop(Stream *self)
{
    if (self->plane != NULL)
        plane_unlist(&self->plane->plane, &self->stream);
    self->stream.incoming.lent = self->stream.outgoing.lent = false;
}

static PyObject *stream_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    Stream *self = (Stream *)object;
    stop(self);
    Py_CLEAR(self->hear);
    Py_RETURN_NONE;
}

static void stream_dealloc(PyObject *object)
{
    Stream *self = (Stream *)object;
    stop(self);
    Py_XDECREF(self->hear);
    Py_XDECREF((PyObject *)self->plane);
    srtp_close(&self->stream.incoming.srtp);
    srtp_close(&self->stream.outgoing.srtp);
    free_object(object);
}

static bool read_incoming(PyObject *argument, struct incoming *in)
{
    unsigned int ssrc, payload_type;
    unsigned long long next;
    long long timestamp;
    in->lent = argument != Py_None;
    if (!in->lent)
        return true;
    if (!PyArg_ParseTuple(argument, "IIKdLdd", &ssrc, &payload_type, &next, &in->clock_rate,
                          &timestamp, &in->jitter, &in->heard_at))
        return false;
    in->ssrc = ssrc;
    in->payload_type = (uint8_t)payload_type;
    in->next = next;
    in->timestamp = timestamp;
    in->octets = 0;
    return true;
}

static bool read_outgoing(PyObject *argument, struct outgoing *out)
{
    const char *header;
    Py_ssize_t header_bytes;
    unsigned int ssrc, first_timestamp;
    unsigned long long next, limit;
    out->lent = argument != Py_None;
    if (!out->lent)
        return true;
    if (!PyArg_ParseTuple(argument, "y#IIKK", &header, &header_bytes, &ssrc, &first_timestamp,
                          &next, &limit))
        return false;
    if (header_bytes < RTP_HEADER_BYTES) {
        PyErr_SetString(PyExc_ValueError, "not the header of an RTP packet");
        return false;
    }
    if (header_bytes > MAX_HEADER_BYTES) { /* a client may name its m-line at such length */
        out->lent = false;
        return true;
    }
    memcpy(out->header, header, (size_t)header_bytes);
    out->header_bytes = (size_t)header_bytes;
    out->ssrc = ssrc;
    out->first_timestamp = first_timestamp;
    out->next = next;
    out->limit = limit;
    out->packets = out->octets = 0;
    return true;
}

static PyObject *stream_lend(PyObject *object, PyObject *arguments)
{
    Stream *self = (Stream *)object;
    const char *path, *endpoint;
    Py_ssize_t path_bytes, endpoint_bytes;
    PyObject *incoming, *outgoing;
    if (!PyArg_ParseTuple(arguments, "y#y#OO", &path, &path_bytes, &endpoint, &endpoint_bytes,
                          &incoming, &outgoing))
        return NULL;
    if (path_bytes != PATH_BYTES || endpoint_bytes != (Py_ssize_t)self->plane->plane.endpoint_bytes)
        return PyErr_Format(PyExc_ValueError, "not a path and an endpoint of this socket");
    stop(self);
    if (self->hear == NULL)
        Py_RETURN_NONE;
    memcpy(self->stream.path, path, PATH_BYTES);
    memcpy(self->stream.endpoint, endpoint, (size_t)endpoint_bytes);
    if (!read_incoming(incoming, &self->stream.incoming) ||
        !read_outgoing(outgoing, &self->stream.outgoing)) {
        stop(self);
        return NULL;
    }
    if (self->stream.incoming.lent && !plane_list(&self->plane->plane, &self->stream)) {
        stop(self);
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

static PyObject *stream_send_method(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    Stream *self = (Stream *)object;
    char *payload;
    Py_ssize_t payload_bytes;
    if (count != 4)
        return PyErr_Format(PyExc_TypeError, "send(payload, timestamp, marker, now)");
    unsigned long long timestamp = PyLong_AsUnsignedLongLongMask(arguments[1]);
    int marker = PyObject_IsTrue(arguments[2]);
    double now = PyFloat_AsDouble(arguments[3]);
    if (PyErr_Occurred() || PyBytes_AsStringAndSize(arguments[0], &payload, &payload_bytes) < 0)
        return NULL;
    struct plane *plane = &self->plane->plane;
    size_t size = stream_send(&self->stream, plane_room(plane), (const uint8_t *)payload,
                              (size_t)payload_bytes, timestamp, marker, now);
    if (size > 0)
        plane_put(plane, size, self->stream.endpoint);
    return PyBool_FromLong(size > 0);
}

static PyObject *give_back_incoming(const struct incoming *in)
{
    if (!in->lent)
        return Py_NewRef(Py_None);
    return Py_BuildValue("(KKLdd)", (unsigned long long)in->next, (unsigned long long)in->octets,
                         (long long)in->timestamp, in->jitter, in->heard_at);
}

static PyObject *give_back_outgoing(const struct outgoing *out)
{
    if (!out->lent)
        return Py_NewRef(Py_None);
    return Py_BuildValue("(KKKId)", (unsigned long long)out->next, (unsigned long long)out->packets,
                         (unsigned long long)out->octets, out->timestamp, out->sent_at);
}

static PyObject *stream_recall(PyObject *object, PyObject *unused)
{
    (void)unused;
    Stream *self = (Stream *)object;
    PyObject *incoming = give_back_incoming(&self->stream.incoming);
    PyObject *outgoing = give_back_outgoing(&self->stream.outgoing);
    if (incoming == NULL || outgoing == NULL) {
        Py_XDECREF(incoming);
        Py_XDECREF(outgoing);
        return NULL;
    }
    stop(self);
    return Py_BuildValue("(NN)", incoming, outgoing);
}

static PyMethodDef stream_methods[] = {
    {"lend", stream_lend, METH_VARARGS, NULL},
    {"recall", stream_recall, METH_NOARGS, NULL},
    {"send", (PyCFunction)(void (*)(void))stream_send_method, METH_FASTCALL, NULL},
    {"close", stream_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_dealloc, stream_dealloc},
    {Py_tp_methods, stream_methods},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "edge.offload._native.Stream",
    .basicsize = sizeof(Stream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stream_slots,
};

/* The module. */

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__native(void)
{
    if (!libcrypto_load()) {
        PyErr_SetString(PyExc_ImportError, "no libcrypto");
        return NULL;
    }
    PyObject *module = PyModule_Create(&definition);
    PyObject *plane = PyType_FromSpec(&plane_spec), *stream = PyType_FromSpec(&stream_spec);
    if (module == NULL || plane == NULL || stream == NULL ||
        PyModule_AddObjectRef(module, "Plane", plane) < 0 ||
        PyModule_AddObjectRef(module, "Stream", stream) < 0)
        Py_CLEAR(module);
    stream_type = (PyTypeObject *)stream; /* with the reference, for good */
    Py_XDECREF(plane);
    return module;
}
