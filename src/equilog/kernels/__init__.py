"""Accelerated code."""
