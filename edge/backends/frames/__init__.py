"""The ``frames`` backend: sessions of many clients on one connection; docs/backend-protocol.md."""
