"""Devices: which one to compute on, and how networks are moved there. PyTorch is imported only where it is needed."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from foursight.models.engines import environment
from foursight.models.engines.precision import has_openvino

if TYPE_CHECKING:
    import torch
    from torch import nn

# CUDA errors after which the context still works; after any other, every later call fails.
_RECOVERABLE = ("out of memory", "invalid argument", "invalid configuration argument", "ALLOC_FAILED")
# One of them exists where NVIDIA's driver is loaded: the second in the Linux subsystem of Windows.
GPU_FILES = ("/proc/driver/nvidia/version", "/dev/dxg")


class Size(TypedDict):
    """Number of parameters (without buffers), and bytes of parameters and buffers."""

    parameters: int
    bytes: int


def resolve(device: str) -> str:
    """Return "cpu" or "cuda" for "auto" (CUDA if there is a GPU, else the CPU), "cpu" or "cuda"."""
    if device != "auto":
        return device
    if not any(Path(path).exists() for path in GPU_FILES):
        return "cpu"
    import torch  # noqa: PLC0415

    return "cuda" if torch.cuda.is_available() else "cpu"


def share_cores(device: str) -> None:
    """Set PyTorch's threads for a process that only serves: one if engines have threads for all cores.

    Two thread pools compete for the cores: on 2 cores, the network of a classification took 9.4 ms with two PyTorch
    threads and 8.4 ms with one. Where engines compute, PyTorch is not imported for it.
    """
    threads = 1 if device == "cpu" and has_openvino() else environment.available_cpus()
    # PyTorch reads it when it is imported.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def move_to(network: "nn.Module", device: "torch.device") -> None:
    """Move a network to a device, in eval mode, its weights in channels-last (NHWC) order.

    On a CPU, Lite0 at 224 x 224 takes 34 ms in this order and 49 ms in NCHW order.
    """
    import torch  # noqa: PLC0415

    network.eval().to(device)
    network.to(memory_format=torch.channels_last)


def count_parameters(network: "nn.Module") -> Size:
    """Count a network's parameters and bytes."""
    tensors = [*network.parameters(), *network.buffers()]
    return Size(
        parameters=sum(p.numel() for p in network.parameters()),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
    )


def is_fatal_device_error(error: BaseException) -> bool:
    """Whether an error leaves the CUDA context of this process unusable: only a new process can compute again.

    They are torch.AcceleratorError since torch 2.8, RuntimeError before. Running out of memory is not one of them.
    """
    torch = sys.modules.get("torch")
    if torch is None or isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError):
        return False
    text = str(error)
    is_accelerator = type(error).__name__ == "AcceleratorError"
    is_cuda = is_accelerator or "CUDA error" in text or "CUDNN_STATUS_EXECUTION_FAILED" in text
    return is_cuda and not any(reason in text for reason in _RECOVERABLE)
