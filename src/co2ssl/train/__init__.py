"""The loop, and what it needs: optimisers, schedules, checkpoints, logs, probing, health."""
