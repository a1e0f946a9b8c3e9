"""The sans-IO WebRTC endpoint: bytes and the time go in, outputs come back."""
