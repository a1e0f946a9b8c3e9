"""``edge top``: a fleet at a glance, from the registry and from every process's ``/metrics``."""
