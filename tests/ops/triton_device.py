"""Where the Triton kernels are tested: on a GPU, or through the interpreter, which runs them on the CPU.

The interpreter is chosen by TRITON_INTERPRET=1 before triton is imported; test_triton.py runs the tests so.
"""

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed; it comes with equilog[dev] on Linux")
if os.environ.get("TRITON_INTERPRET") == "1":
    DEVICE = "cpu"
elif torch.cuda.is_available():
    DEVICE = "cuda"
else:
    pytest.skip("no GPU here; test_triton.py runs these tests through the interpreter", allow_module_level=True)

quiet = [
    # Through the interpreter, NumPy warns of infinities that are meant.
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning"),
]


def with_gradient(values_of: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """Return values and, for upstream gradients from 0.5 to 1.5 over all of them, the gradient of z."""
    z = z.detach().requires_grad_()
    values = values_of(z)
    upstream = torch.linspace(0.5, 1.5, values.numel(), dtype=torch.float64, device=z.device).view(values.shape)
    (gradient,) = torch.autograd.grad(values, z, upstream.to(values.dtype))
    return values.detach(), gradient


def close_to(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    """Compare values and gradient with those of float64, from the same rounded numbers of a type.

    In float32, sums of n terms each rounded by 6e-8, of differences of scores up to 1e4 that are rounded by 1e-7 of
    these; a gradient is rounded to the type of the logits.
    """
    wide = dtype == torch.float64
    assert found[0].dtype == (torch.float64 if wide else torch.float32)
    assert found[1].dtype == dtype
    rtol = 1e-12 if wide else 4e-6
    torch.testing.assert_close(found[0].double(), expected[0], rtol=rtol, atol=rtol, equal_nan=True)
    rtol, atol = (1e-11, 1e-13) if wide else (max(2e-5, 2 * torch.finfo(dtype).eps), 1e-6)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=rtol, atol=atol, equal_nan=True)
