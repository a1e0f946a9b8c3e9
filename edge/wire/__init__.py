"""Bytes to frozen values and back; no state, clock or socket."""
