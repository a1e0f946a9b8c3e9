"""The parts of ``scripts/bench_relay``: what forwards, what sends, and what is made of it."""
