"""Which errors mean that a GPU is lost to the process; the messages are CUDA's and cuBLAS's own."""

import pytest
import torch

from foursight.models.engines.devices import is_fatal_device_error

ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"
ILLEGAL = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (torch.AcceleratorError(ASSERT), True),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), True),
        (RuntimeError(ILLEGAL), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), False),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error is what a label may be called"), False),
    ],
)
def test_errors_after_which_every_cuda_call_fails_are_fatal(error: Exception, fatal: bool) -> None:
    assert is_fatal_device_error(error) is fatal
