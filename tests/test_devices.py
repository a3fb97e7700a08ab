"""Which errors mean that a process can no longer compute on its GPU."""

import pytest
import torch

from foursight.models.engines.devices import is_fatal_device_error


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported asynchronously",
        "CUDA error: device-side assert triggered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_an_error_that_breaks_the_cuda_context_is_fatal(text: str) -> None:
    assert is_fatal_device_error(RuntimeError(text))


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="torch < 2.8 raises RuntimeError")
def test_an_accelerator_error_is_fatal() -> None:
    assert is_fatal_device_error(torch.AcceleratorError("CUDA error: an illegal instruction was encountered"))
    assert is_fatal_device_error(torch.AcceleratorError("HIP error: unspecified launch failure"))
    assert not is_fatal_device_error(torch.AcceleratorError("CUDA error: out of memory"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: invalid configuration argument"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
        ValueError("CUDA error: device-side assert triggered"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not_fatal(error: BaseException) -> None:
    assert not is_fatal_device_error(error)
