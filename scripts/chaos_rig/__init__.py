"""The rig of ``scripts/chaos`` and ``scripts/rollout``: a fleet of pods and what breaks in it."""
