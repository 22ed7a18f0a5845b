"""Time and memory of each loss beside others': python -m benchmarks.speed, from the repository's root."""
