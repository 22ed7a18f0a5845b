"""What the runs of a comparison show: metrics, intervals, the ranking and the verdict."""
