"""Where the Triton kernels are tested: on a GPU, or through the interpreter, which runs them on the CPU.

The interpreter is chosen by TRITON_INTERPRET=1 before triton is imported; test_triton.py runs the tests so.
"""

import os

import pytest
import torch

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
