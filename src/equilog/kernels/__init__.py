"""Accelerated code, and the sole place that asks about hardware."""
