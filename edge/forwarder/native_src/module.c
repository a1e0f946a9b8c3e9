/* edge.forwarder._native: the module, and the making and running of a Core. See core.h. */
#include "core.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PAIRS 1024

/* Arguments. */

bool read_endpoint(const char *data, Py_ssize_t length, struct endpoint *endpoint)
{
    if (length != (Py_ssize_t)sizeof *endpoint) {
        PyErr_SetString(PyExc_ValueError, "an endpoint has 18 bytes");
        return false;
    }
    memcpy(endpoint, data, sizeof *endpoint);
    return true;
}

bool check_path(const char *data, Py_ssize_t length)
{
    if (length == PATH_BYTES && path_has_magic((const uint8_t *)data))
        return true;
    PyErr_SetString(PyExc_ValueError, "a path is an SPP header of 38 bytes");
    return false;
}

bool check_hop(long long hop, long long least)
{
    if (hop >= least && hop <= UINT32_MAX)
        return true;
    PyErr_SetString(PyExc_ValueError, "a hop is a number from 1 to 2**32 - 1");
    return false;
}

/* Making and ending. */

static bool open_core(Core *self, const struct endpoint *advertised, double per_second,
                      uint32_t max_flows)
{
    self->open = true;
    self->to_public = malloc(sizeof *self->to_public);
    self->to_internal = malloc(sizeof *self->to_internal);
    if (!forwarder_open(&self->forwarder, advertised, per_second, max_flows) ||
        self->to_public == NULL || self->to_internal == NULL) {
        PyErr_NoMemory();
        return false;
    }
    outbox_open(self->to_public);
    outbox_open(self->to_internal);
    return true;
}

static PyObject *core_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"advertised", "public_family", "internal_family",
                            "strangers_per_second", "max_flows", NULL};
    const char *data;
    Py_ssize_t length;
    int public_family, internal_family;
    double per_second;
    long long max_flows;
    struct endpoint advertised;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "y#iidL", names, &data, &length,
                                     &public_family, &internal_family, &per_second, &max_flows) ||
        !read_endpoint(data, length, &advertised))
        return NULL;
    if (max_flows < 1 || max_flows > UINT32_MAX / 2)
        return PyErr_Format(PyExc_ValueError, "max_flows is out of range");
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Core *self = (Core *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    if (!open_core(self, &advertised, per_second, (uint32_t)max_flows)) {
        Py_DECREF(self);
        return NULL;
    }
    self->forwarder.public_family = public_family;
    self->forwarder.internal_family = internal_family;
    return (PyObject *)self;
}

static void core_dealloc(PyObject *object)
{
    Core *self = (Core *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->open) {
        crew_stop(&self->crew);
        forwarder_close(&self->forwarder);
        free(self->to_public);
        free(self->to_internal);
    }
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* Threads. */

static bool read_number(PyObject *numbers, Py_ssize_t place, int *number)
{
    long value = PyLong_AsLong(PyTuple_GetItem(numbers, place));
    *number = (int)value;
    return value != -1 || !PyErr_Occurred();
}

static bool read_pairs(PyObject *publics, PyObject *internals, PyObject *cpus, struct pair *pairs)
{
    for (Py_ssize_t i = 0; i < PyTuple_Size(publics); i++) {
        pairs[i].cpu = -1;
        if (!read_number(publics, i, &pairs[i].public_fd) ||
            !read_number(internals, i, &pairs[i].internal_fd))
            return false;
        if (i < PyTuple_Size(cpus) && !read_number(cpus, i, &pairs[i].cpu))
            return false;
        if (pairs[i].cpu >= CPU_SETSIZE) {
            PyErr_Format(PyExc_ValueError, "there is no such processor");
            return false;
        }
    }
    return true;
}

static PyObject *core_start(PyObject *object, PyObject *arguments)
{
    Core *self = (Core *)object;
    PyObject *publics, *internals, *cpus;
    int threads, error;
    struct pair pairs[MAX_PAIRS];
    if (!PyArg_ParseTuple(arguments, "O!O!iO!", &PyTuple_Type, &publics, &PyTuple_Type, &internals,
                          &threads, &PyTuple_Type, &cpus))
        return NULL;
    Py_ssize_t count = PyTuple_Size(publics);
    if (count < 1 || count > MAX_PAIRS || PyTuple_Size(internals) != count || threads < 1 ||
        threads > count)
        return PyErr_Format(PyExc_ValueError, "a thread has one pair of sockets at least");
    if (self->crew.worker_count > 0)
        return PyErr_Format(PyExc_RuntimeError, "it runs already");
    if (!read_pairs(publics, internals, cpus, pairs))
        return NULL;
    error = crew_start(&self->crew, &self->forwarder, pairs, (unsigned)count, (unsigned)threads);
    if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *core_stop(PyObject *object, PyObject *Py_UNUSED(none))
{
    Core *self = (Core *)object;
    Py_BEGIN_ALLOW_THREADS
    crew_stop(&self->crew);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* The type and the module. */

static PyMethodDef core_methods[] = {
    {"start", core_start, METH_VARARGS, NULL},
    {"stop", core_stop, METH_NOARGS, NULL},
    {"put", core_put, METH_VARARGS, NULL},
    {"get", core_get, METH_VARARGS, NULL},
    {"remove", core_remove, METH_VARARGS, NULL},
    {"flow_count", core_flow_count, METH_NOARGS, NULL},
    {"scan", core_scan, METH_VARARGS, NULL},
    {"set_hop", core_set_hop, METH_VARARGS, NULL},
    {"remove_hop", core_remove_hop, METH_VARARGS, NULL},
    {"take", core_take, METH_NOARGS, NULL},
    {"clear_stale", core_clear_stale, METH_NOARGS, NULL},
    {"forward", core_forward, METH_VARARGS, NULL},
    {"deliver", core_deliver, METH_VARARGS, NULL},
    {"counts", core_counts, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef core_attributes[] = {
    {"raised_fd", core_raised_fd, NULL, NULL, NULL},
    {"stale_fd", core_stale_fd, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot core_slots[] = {
    {Py_tp_new, (void *)core_new},
    {Py_tp_dealloc, (void *)core_dealloc},
    {Py_tp_methods, core_methods},
    {Py_tp_getset, core_attributes},
    {0, NULL},
};

static PyType_Spec core_spec = {
    .name = "edge.forwarder._native.Core",
    .basicsize = sizeof(Core),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = core_slots,
};

static int set_up_module(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &core_spec, NULL);
    if (type == NULL)
        return -1;
    int failed = PyModule_AddObjectRef(module, "Core", type);
    Py_DECREF(type);
    return failed;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)set_up_module},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_native", .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void);
PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&module_definition);
}
