"""What decision rules gain on classifiers as they come, and what they cost where rows are few."""
