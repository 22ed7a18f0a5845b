"""From a file or the name of a data set to features, targets and splits."""
