"""What cannot be collected here: modules whose imports are not to be had on every system."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("triton") else ["src/equilog/kernels/triton_odds.py"]
