"""The build of PyTorch that an installation gets: tools/install_torch.py and pip, with two package indexes on loopback.

`pypi` has the wheels with CUDA, `pytorch` those for a CPU. The wheels are empty; versions and requirements are real.
"""

import os
import re
import shutil
import socket
import subprocess
import tomllib
import venv
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distributions
from pathlib import Path
from threading import Thread
from urllib.parse import quote
from zipfile import ZipFile

import pip
import pytest
import yaml

from tests.conftest import free_port

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tools" / "install_torch.py"
SERVER = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["server"]
REQUIREMENTS = [one for one in SERVER if re.match(r"torch(vision)?\b", one)]
CPU = {"torch": "2.14.1+cpu", "torchvision": "0.29.1+cpu"}
CUDA = {"torch": "2.14.1", "torchvision": "0.29.1", "nvidia-cublas": "13.1"}
NEWER_CUDA = {"torch": "2.15.0", "torchvision": "0.30.0", "nvidia-cublas": "13.1"}

pytestmark = pytest.mark.skipif(
    shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists(),
    reason="a machine with an NVIDIA GPU cannot show what one without does",
)


class Index:
    """A package index (PEP 503) on loopback. `asked` has the paths of the requests."""

    def __init__(self, folder: Path, versions: dict[str, str]) -> None:
        self.folder = folder
        self.asked: list[str] = []
        (folder / "simple").mkdir(parents=True)
        self.add(versions)
        handler = partial(_Handler, self.asked, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple"

    def add(self, versions: dict[str, str]) -> None:
        for name, version in versions.items():
            wheel = write_wheel(self.folder, name, version, requirements(name, versions))
            page = self.folder / "simple" / name / "index.html"
            page.parent.mkdir(exist_ok=True)
            with page.open("a") as out:
                out.write(f'<a href="../../{quote(wheel)}">{wheel}</a>\n')

    def __enter__(self) -> "Index":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, asked: list[str], *arguments: object, directory: str) -> None:
        self.asked = asked
        super().__init__(*arguments, directory=directory)

    def log_message(self, *_: object) -> None:
        self.asked.append(self.path)


def requirements(name: str, versions: dict[str, str]) -> list[str]:
    """Return a PyTorch wheel's requirements: torchvision needs one version of torch, and torch CUDA or nothing."""
    if name == "torchvision":
        return [f"torch=={versions['torch'].partition('+')[0]}"]
    return ["nvidia-cublas"] if name == "torch" and "nvidia-cublas" in versions else []


def write_wheel(folder: Path, name: str, version: str, requires: list[str]) -> str:
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in requires)]
    files = {
        f"{module}/__init__.py": "",
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", *metadata, ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    wheel = f"{module}-{version}-py3-none-any.whl"
    with ZipFile(folder / wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


@pytest.fixture
def pypi(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "pypi", CUDA) as index:
        yield index


@pytest.fixture
def pytorch(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "pytorch", CPU) as index:
        yield index


class Installation:
    """A new environment whose pip knows `pypi` but none of this machine's configuration."""

    def __init__(self, folder: Path, pypi: Index) -> None:
        venv.create(folder)
        self.folder = folder
        (self._packages,) = folder.glob("lib/python*/site-packages")
        # This takes a tenth of the time of installing pip.
        (self._packages / "pip").symlink_to(Path(pip.__file__).parent)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "TORCH"))}
        self.environment = kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": pypi.url, "no_proxy": "127.0.0.1"}

    def choose(self, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run the script, with TORCH and TORCH_INDEX."""
        return self.run(str(self.folder / "bin" / "python"), str(SCRIPT), **settings)

    def finish(self, **settings: str) -> None:
        """Install what the server requires of PyTorch, as the Makefile does next."""
        python = str(self.folder / "bin" / "python")
        self.run(python, "-m", "pip", "install", "--quiet", *REQUIREMENTS, **settings).check_returncode()

    def versions(self) -> dict[str, str]:
        return {one.name: one.version for one in distributions(path=[str(self._packages)])}

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env=self.environment | settings, capture_output=True, text=True, check=False
        )


@pytest.fixture
def installation(pypi: Index, tmp_path: Path) -> Installation:
    return Installation(tmp_path / "venv", pypi)


def test_without_a_gpu_the_cpu_build_is_installed_and_kept(installation: Installation, pytorch: Index) -> None:
    chosen = installation.choose(TORCH_INDEX=pytorch.url)
    assert (chosen.returncode, chosen.stderr) == (0, "")
    assert chosen.stdout == f"PyTorch: the CPU build, from {pytorch.url}.\n"
    installation.finish()
    assert installation.versions() == CPU


@pytest.mark.parametrize("order", ["PyPI first", "PyTorch first"])
def test_a_newer_wheel_with_cuda_on_pypi_does_not_win_whatever_pip_is_configured_with(
    installation: Installation, pypi: Index, pytorch: Index, order: str
) -> None:
    pypi.add(NEWER_CUDA)
    first, extra = (pypi, pytorch) if order == "PyPI first" else (pytorch, pypi)
    configuration = {"PIP_INDEX_URL": first.url, "PIP_EXTRA_INDEX_URL": extra.url}
    installation.choose(TORCH_INDEX=pytorch.url, **configuration).check_returncode()
    installation.finish(**configuration)
    assert installation.versions() == CPU


@pytest.mark.parametrize("order", ["PyPI first", "PyTorch first"])
def test_of_equal_versions_pip_takes_the_cpu_build_from_either_index(
    installation: Installation, pypi: Index, pytorch: Index, order: str
) -> None:
    """Without the script: PyTorch's index as one of pip's two is enough while PyPI is not ahead."""
    first, extra = (pypi, pytorch) if order == "PyPI first" else (pytorch, pypi)
    installation.finish(PIP_INDEX_URL=first.url, PIP_EXTRA_INDEX_URL=extra.url)
    assert installation.versions() == CPU


def test_an_index_that_cannot_be_reached_leaves_pypis_wheel_and_says_so_in_one_line(installation: Installation) -> None:
    closed = f"http://127.0.0.1:{free_port()}/simple"
    chosen = installation.choose(TORCH_INDEX=closed)
    assert (chosen.returncode, chosen.stderr) == (0, "")
    assert chosen.stdout.splitlines() == [
        f"PyTorch: with 4 GB of CUDA libraries, from the package index, because {closed} offers no CPU build."
    ]
    installation.finish()
    assert installation.versions() == CUDA


def test_an_index_that_never_answers_is_given_up(installation: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        chosen = installation.choose(TORCH_INDEX=f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
    assert chosen.returncode == 0
    assert "CUDA" in chosen.stdout


def test_an_index_without_a_wheel_for_this_python_leaves_pypis(installation: Installation, pytorch: Index) -> None:
    for page in pytorch.folder.glob("simple/*/index.html"):
        page.write_text(page.read_text().replace("py3-none-any", "cp27-cp27m-win32"))
    chosen = installation.choose(TORCH_INDEX=pytorch.url)
    assert chosen.returncode == 0
    assert "CUDA" in chosen.stdout
    assert installation.versions() == {}


def test_a_cpu_build_that_is_demanded_and_not_there_is_an_error_in_one_line(installation: Installation) -> None:
    closed = f"http://127.0.0.1:{free_port()}/simple"
    refused = installation.choose(TORCH="cpu", TORCH_INDEX=closed)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines() == [
        f"PyTorch: {closed} offers no CPU build. Set TORCH_INDEX to a mirror of it, or TORCH=auto."
    ]


def test_with_a_gpu_pypis_wheel_is_left_and_the_other_index_not_asked(
    installation: Installation, pytorch: Index, tmp_path: Path
) -> None:
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert "with CUDA" in installation.choose(TORCH_INDEX=pytorch.url, PATH=path).stdout
    assert pytorch.asked == []
    # TORCH=cpu selects the CPU build on such a machine, too.
    installation.choose(TORCH="cpu", TORCH_INDEX=pytorch.url, PATH=path).check_returncode()
    assert installation.versions() == CPU


def test_cuda_can_be_demanded_without_a_gpu(installation: Installation, pytorch: Index) -> None:
    assert "with CUDA" in installation.choose(TORCH="cuda", TORCH_INDEX=pytorch.url).stdout
    assert (installation.versions(), pytorch.asked) == ({}, [])


def test_an_environment_that_has_torch_keeps_it(installation: Installation, pytorch: Index) -> None:
    installation.finish()
    again = installation.choose(TORCH_INDEX=pytorch.url)
    assert (again.returncode, again.stdout, pytorch.asked) == (0, "", [])
    assert installation.versions() == CUDA


@pytest.mark.parametrize("target", ["run", "test", "lint", "peers"])
def test_make_chooses_the_build_before_it_installs_the_rest(target: str) -> None:
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", target]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    (choice,) = [number for number, line in enumerate(lines) if "tools/install_torch.py" in line]
    (rest,) = [number for number, line in enumerate(lines) if "pip install" in line]
    assert choice < rest


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_make_passes_the_choice_on_and_an_unknown_one_is_refused_in_one_line(
    installation: Installation, by: str
) -> None:
    target = [f"VENV={installation.folder}", str(installation.folder / "installed-torch")]
    arguments, environment = (["TORCH=rocm"], {}) if by == "argument" else ([], {"TORCH": "rocm"})
    refused = installation.run("make", "--silent", *target, *arguments, **environment)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[0] == "TORCH is 'rocm'. It must be auto, cpu or cuda."
    assert not (installation.folder / "installed-torch").exists()


@pytest.mark.parametrize("name", ["TORCH", "TORCH_INDEX"])
def test_an_image_can_be_built_with_the_choice(name: str) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert name in services["server"]["build"]["args"]
    assert re.search(rf"(?m)^ARG {name}=", (ROOT / "Dockerfile").read_text())
