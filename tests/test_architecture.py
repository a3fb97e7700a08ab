"""Which room may import which, and what each may mention."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    path.relative_to(ROOT): path.read_text()
    for room in ("schema", "drawing", "models", "serving", "clients")
    for path in sorted((ROOT / room).rglob("*.py"))
}
# The rooms that each room may import besides itself; clients/cli may import all, but server code only inside functions.
ARROWS = {
    "schema": set(),
    "drawing": {"schema"},
    "models": {"schema"},
    "serving": {"models", "schema", "drawing"},
    "clients/sdk": {"schema", "drawing"},
}
# The rooms of models/: each imports only from the lines above its own.
LAYERS = (
    ("decode_guard", "errors", "folders"),
    ("coco", "image", "labels", "region", "results"),
    ("datasets",),
    ("networks",),
    ("engines", "finetuned"),
    ("tasks",),
    ("catalogue",),
    ("evaluation",),
    ("training", "inspection"),
)
FOREIGN = re.compile(
    r"\b(GET|POST|PUT|DELETE) /|/v1/|\bHTTP\b|(?<![\w-])--[a-z]|\bcurl\b|command[- ]line"
    r"|\bfoursight (serve|finetune|evaluate|benchmark|describe|explain|models|check|"
    r"classify|localize|detect|segment|analyze)\b"
)


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the modules of this package that the code imports when it runs, inside functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "foursight":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("foursight."))
        yield from imports(node)


def room_of(parts: tuple[str, ...]) -> str:
    return "/".join(parts[:2]) if parts[0] == "clients" else parts[0]


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path.parts) in ARROWS], ids=str)
def test_a_room_imports_only_the_rooms_below_it(path: Path) -> None:
    room = room_of(path.parts)
    used = {room_of(tuple(name.split(".")[1:])) for name in imports(ast.parse(FILES[path]))}
    assert used - {room} <= ARROWS[room]


def layer_of(parts: tuple[str, ...]) -> int | None:
    """Return the line of LAYERS that a module of models/ is in; None for the package itself, which re-exports."""
    name = parts[1].removesuffix(".py") if len(parts) > 1 else ""
    return next((number for number, rooms in enumerate(LAYERS) if name in rooms), None)


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "models"], ids=str)
def test_a_room_of_the_models_imports_only_lower_ones(path: Path) -> None:
    own = layer_of(path.parts)
    if own is None:
        assert path == Path("models/__init__.py")
        return
    for name in imports(ast.parse(FILES[path])):
        parts = tuple(name.split(".")[1:])
        if parts[0] == "models" and parts[1] != path.parts[1].removesuffix(".py"):
            layer = layer_of(parts)
            assert layer is not None, f"{name}: import from the module that defines it"
            assert layer < own, name


def texts(source: str) -> Iterator[str]:
    """Yield all strings, docstrings and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "models"], ids=str)
def test_models_mention_neither_the_protocol_nor_the_commands(path: Path) -> None:
    assert [text for text in texts(FILES[path]) if FOREIGN.search(text)] == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("foursight.clients.sdk", {"torch", "ray", "torchvision", "openvino"}),
        ("foursight.clients.cli.app", {"torch", "ray", "torchvision", "openvino"}),
        ("foursight.schema.tasks", {"torch", "ray", "numpy", "PIL"}),
        ("foursight.models", {"torch", "ray", "torchvision", "openvino", "starlette"}),
    ],
)
def test_a_module_loads_nothing_heavy(module: str, absent: set[str]) -> None:
    code = f"import {module}, sys\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert absent.isdisjoint(loaded)
    assert module in loaded
