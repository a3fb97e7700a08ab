"""Install PyTorch before Foursight, in the build that suits this machine.

    python tools/install_torch.py

PyPI's wheel for Linux depends on 4 GB of CUDA libraries. A machine without an NVIDIA GPU gets the CPU build from
PyTorch's own index if that can be reached, and PyPI's wheel otherwise. An environment that has PyTorch keeps it.

The environment variable TORCH may be auto (the default), cpu or cuda. TORCH_INDEX is the address of an index of CPU
builds.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Seconds for name resolution, connection and answer together.
TIMEOUT = 5
PROBE = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1])"


def main() -> int:
    build = os.environ.get("TORCH") or "auto"
    index = (os.environ.get("TORCH_INDEX") or CPU_INDEX).rstrip("/")
    if build not in {"auto", "cpu", "cuda"}:
        return _refuse(f"TORCH is {build!r}. It must be auto, cpu or cuda.")
    if find_spec("torch"):
        return 0
    if build == "cuda" or (build == "auto" and has_nvidia_gpu()):
        print("PyTorch: with CUDA, from the package index.")
        return 0
    if is_reachable(index):
        print(f"PyTorch: the CPU build, from {index}.", flush=True)
        if install_cpu_build(index):
            return 0
    if build == "cpu":
        return _refuse(f"PyTorch: {index} offers no CPU build. Set TORCH_INDEX to a mirror of it, or TORCH=auto.")
    print(f"PyTorch: with 4 GB of CUDA libraries, from the package index, because {index} offers no CPU build.")
    return 0


def has_nvidia_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()


def is_reachable(index: str) -> bool:
    """Whether the index answers for torch. A process of its own, since no timeout of urllib bounds name resolution."""
    command = [sys.executable, "-c", PROBE, f"{index}/torch/"]
    try:
        return subprocess.run(command, timeout=TIMEOUT, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def install_cpu_build(index: str) -> bool:
    """Install torch and torchvision from this index alone."""
    # pip takes the highest version of all its indexes: one that the configuration adds could win with a CUDA build. The
    # variable replaces what the configuration says.
    environment = os.environ | {"PIP_EXTRA_INDEX_URL": index}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--index-url", index, "torch", "torchvision"]
    return subprocess.run(command, env=environment, check=False).returncode == 0


def _refuse(reason: str) -> int:
    print(reason, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
