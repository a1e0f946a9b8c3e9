"""Audio between client and model: codecs, resampling, jitter buffer."""
