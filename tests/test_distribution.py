"""The wheel and the sdist: their contents, and a server from a wheel installed elsewhere.

They are built from a copy of the files that git tracks, so nothing else in this folder gets into them.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from email.message import Message
from email.parser import Parser
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

from tests.conftest import Running, free_port

ROOT = Path(__file__).parent.parent
ROOMS = {path.name for path in (ROOT / "src" / "foursight").iterdir() if path.is_symlink()}
# The extras of this repository's own tests and measurements.
OURS = {"dev", "load", "peers"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILD_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
# A stranger owns `foursight` on PyPI, and `foursight-vision` is free: anyone could publish a package under that name.
INSTALLS_A_STRANGER = re.compile(r"\b(pip3?|pipx|uv pip|uv tool) install (-\S+ )*[\\\"'`]*foursight")


@cache
def files_of_the_repository() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(name for name in set(listed) if name and (ROOT / name).exists())


def files_of_the_package() -> set[str]:
    """Return the files that a wheel must contain, by their names in it."""
    found = {f"foursight/{name}" for name in files_of_the_repository() if name.partition("/")[0] in ROOMS}
    package = (name for name in files_of_the_repository() if name.startswith("src/") and not (ROOT / name).is_symlink())
    return found | {name.removeprefix("src/") for name in package}


def copy(names: list[str], folder: Path) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def build_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "built", "."]
    subprocess.run(command, cwd=folder, check=True)
    (wheel,) = (folder / "built").glob("*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def metadata(wheel: Path) -> Message:
    (name,) = (name for name in contents(wheel) if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(contents(wheel)[name].decode())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the part of the repository that the container image gets."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    names = [name for name in files_of_the_repository() if any(f"{name}/".startswith(f"{one}/") for one in kept)]
    return build_wheel(copy(names, tmp_path_factory.mktemp("image")))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of the whole repository, unpacked."""
    folder = copy(files_of_the_repository(), tmp_path_factory.mktemp("repository"))
    subprocess.run([sys.executable, "-c", BUILD_SDIST, "built"], cwd=folder, check=True, capture_output=True)
    (archive,) = (folder / "built").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel; all other packages are those of the tests' environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    install = ["--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    # Path files in a folder added this way are not read, so the editable installation is not visible.
    (packages,) = folder.glob("lib/python*/site-packages")
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "shared.pth").write_text("\n".join(paths))
    return folder / "bin"


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    assert {name for name in contents(wheel) if ".dist-info/" not in name} == files_of_the_package()


def test_the_sdist_holds_no_tests_and_no_tools(sdist: Path) -> None:
    tops = {path.name for path in sdist.iterdir()}
    texts = {"CHANGELOG.md", "LICENSE", "NOTICE", "README.md"}
    assert tops == texts | {"MANIFEST.in", "PKG-INFO", "pyproject.toml", "setup.cfg", "src"}


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path) -> None:
    assert contents(build_wheel(sdist)) == contents(wheel)


def test_the_wheel_carries_its_licence_and_the_notices(wheel: Path) -> None:
    said = metadata(wheel)
    assert said["License-Expression"] == "Apache-2.0"
    assert said.get_all("License-File") == ["LICENSE", "NOTICE"]
    for name in ("LICENSE", "NOTICE"):
        (found,) = (data for path, data in contents(wheel).items() if path.endswith(f".dist-info/licenses/{name}"))
        assert found == (ROOT / name).read_bytes()


def test_the_notices_name_every_font_picture_and_file_of_weights() -> None:
    named = re.findall(r"[\w./*-]+\.\w+", (ROOT / "NOTICE").read_text())
    for path in map(Path, files_of_the_repository()):
        if path.suffix in {".jpg", ".png", ".otf", ".ttf", ".woff2", ".safetensors"}:
            assert any(fnmatch(str(path), pattern) or fnmatch(path.name, pattern) for pattern in named), path


def test_an_installed_wheel_serves_outside_the_clone(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with Installed(environment, free_port(), tmp_path / "log", "--tasks", "classify") as server:
        sample = tmp_path / "cat.jpg"
        sample.write_bytes(httpx.get(f"{server.url}/page/samples/cat.jpg").raise_for_status().content)
        code = (
            "import sys, foursight; client = foursight.Client(sys.argv[1])\n"
            "print(foursight.__file__, client.classify(sys.argv[2]).predictions[0].label, sep='\\n')"
        )
        command = [environment / "python", "-c", code, server.url, str(sample)]
        file, label = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert Path(file).is_relative_to(environment.parent)
    assert label in {"tiger cat", "Egyptian cat", "tabby"}


def test_the_installed_command_prints_its_version(environment: Path, tmp_path: Path) -> None:
    command = [environment / "foursight", "--version"]
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=True)
    assert PROJECT["version"] in done.stdout


class Installed(Running):
    """`foursight serve` from this environment."""

    def __init__(self, environment: Path, port: int, log: Path, *options: str) -> None:
        super().__init__(port, log)
        self._command = [str(environment / "foursight"), "serve", "--port", str(port), *options]


def test_what_the_package_imports_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    requirements = [*PROJECT["dependencies"], *(one for name in set(extras) - OURS for one in extras[name])]
    declared = {normalized(re.split(r"[^\w.-]", one)[0]) for one in requirements}
    # pydantic pins pydantic-core to one version, and documents imports from it.
    providers = packages_distributions() | {"pydantic_core": ["pydantic"]}
    undeclared = [
        f"{name} imports {module}"
        for name in sorted(files_of_the_package())
        if name.endswith(".py")
        for module in imported(ROOT / "src" / name) - sys.stdlib_module_names - {"foursight"}
        if not declared & {normalized(one) for one in providers.get(module, [module])}
    ]
    assert undeclared == []


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_no_text_tells_anyone_to_install_a_strangers_package() -> None:
    found = []
    for name in files_of_the_repository():
        data = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in data:
            lines = enumerate(data.decode().splitlines(), 1)
            found += [f"{name}:{number}: {line}" for number, line in lines if INSTALLS_A_STRANGER.search(line)]
    assert found == []
