/* The class Core of edge.forwarder._native, in parts: core_flows.c, core_packets.c, module.c.

   Core's methods are for one thread of Python. It speaks of paths and endpoints (host 16, port 2)
   as bytes, of hops as int, and of times as float seconds. */
#ifndef EDGE_CORE_H
#define EDGE_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "crew.h"
#include "rules.h"

/* clang-format off */
typedef struct {
    PyObject_HEAD
    struct forwarder forwarder;
    struct crew crew;
    struct outbox *to_public, *to_internal; /* for what Python sends */
    bool open;
} Core;
/* clang-format on */

/* These raise ValueError and return false. */
bool read_endpoint(const char *data, Py_ssize_t length, struct endpoint *endpoint);
bool check_path(const char *data, Py_ssize_t length);
bool check_hop(long long hop, long long least);

PyObject *core_put(PyObject *object, PyObject *arguments);
PyObject *core_get(PyObject *object, PyObject *arguments);
PyObject *core_remove(PyObject *object, PyObject *arguments);
PyObject *core_flow_count(PyObject *object, PyObject *arguments);
PyObject *core_scan(PyObject *object, PyObject *arguments);

PyObject *core_set_hop(PyObject *object, PyObject *arguments);
PyObject *core_remove_hop(PyObject *object, PyObject *arguments);
PyObject *core_take(PyObject *object, PyObject *arguments);
PyObject *core_clear_stale(PyObject *object, PyObject *arguments);
PyObject *core_forward(PyObject *object, PyObject *arguments);
PyObject *core_deliver(PyObject *object, PyObject *arguments);
PyObject *core_counts(PyObject *object, PyObject *arguments);
PyObject *core_raised_fd(PyObject *object, void *closure);
PyObject *core_stale_fd(PyObject *object, void *closure);

#endif
