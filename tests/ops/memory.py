"""What memory an operation makes, other than that of its inputs."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """The bytes of each large tensor that an operation makes, other than its inputs."""

    def __init__(self, large: int, *inputs: Tensor) -> None:
        super().__init__()
        self.large, self.made = large, list[int]()
        self.seen = {tensor.untyped_storage().data_ptr() for tensor in inputs}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= self.large:
                at = tensor.untyped_storage().data_ptr()
                if at not in self.seen:
                    self.seen.add(at)
                    self.made.append(tensor.untyped_storage().nbytes())
        return result
