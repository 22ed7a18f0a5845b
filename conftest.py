"""What cannot be collected here: modules whose imports are not to be had on every system."""

import importlib.util

collect_ignore = (
    []
    if importlib.util.find_spec("triton")
    else ["src/equilog/ops/index_odds/triton.py", "src/equilog/ops/sum_by_id/triton.py"]
)
