"""The stateful WebRTC endpoint: one shared UDP socket, a nursery a session."""
