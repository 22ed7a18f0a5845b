"""The losses: each a function and its module in one file, a few lines over the core."""
