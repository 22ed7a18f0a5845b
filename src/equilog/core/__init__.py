"""The formula: which class pairs share a log, what a set adds to it, which sets do, and how parts of a step add up."""
