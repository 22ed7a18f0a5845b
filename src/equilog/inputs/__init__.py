"""Whatever a loss is called with -> one validated form: options, sets of classes, yes/no labels. Data only, no sums."""
