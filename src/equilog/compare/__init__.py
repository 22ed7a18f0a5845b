"""The main job: train the same model with each loss on the same data and tell which served."""
