"""What a loss is worth where it takes cross-entropy's place and nothing else changes: learning rates nobody tuned."""
