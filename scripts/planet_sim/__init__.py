"""Calls from all over the world to one region or to many, on a virtual network and clock."""
