"""Edge: a self-hosted media edge for voice AI."""

__version__ = "0.1.0"
