"""Who is alive and where: transceivers, relays and flows."""
