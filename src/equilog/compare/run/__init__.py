"""Training, testing and saving: one run, all runs, and what they leave on disk."""
