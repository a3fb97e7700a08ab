"""What describes a data set in YOLO's format.

ultralytics and Roboflow write a data.yaml, labelImg and Label Studio a classes.txt, CVAT's "YOLO 1.1" an obj.data.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from foursight.models.datasets import layout
from foursight.models.datasets.files import Fault, text_of

CLASSES, DARKNET = "classes.txt", "obj.data"
# The keys that tell a data.yaml from other YAML.
_KEYS = ("names", "nc", "train")


@dataclass(frozen=True)
class Config:
    """The labels by index, the folder that paths are relative to, the values of the sides, and what is wrong.

    `training` and `validation` are paths of folders or lists, as written; `validation_key` is the key it was read from.
    `has_keypoints` is whether keypoints follow each box.
    """

    file: Path
    root: Path
    names: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    validation_key: str = "val"
    unread: tuple[str, ...] = ()
    has_keypoints: bool = False
    problems: tuple[str, ...] = ()


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys: PyYAML would keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(str(key.value) for key, _ in node.value)
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            line = node.start_mark.line + 1
            raise Fault(f"from line {line}: the key {twice[0]} occurs {keys[twice[0]]} times; keep one of them")
        return super().construct_mapping(node, deep)


def find(folder: Path) -> Path | None:
    """Return a folder's `data.yaml`, or its only YAML file of that kind, or its `obj.data` or `classes.txt`."""
    found = [path for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))) if layout.is_visible(path)]
    named = [path for path in found if path.stem == "data"] or [path for path in found if _is_config(path)]
    if len(named) == 1:
        return named[0]
    others = (folder / DARKNET, folder / CLASSES, folder / "labels" / CLASSES)
    return None if named else next((path for path in others if path.is_file()), None)


def _is_config(path: Path) -> bool:
    try:
        content = yaml.load(text_of(path), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and any(key in content for key in _KEYS)


def read(file: Path) -> Config:
    """Read one of the files that `find` returns, with what is wrong in it."""
    if file.name == DARKNET:
        return _from_darknet(file)
    return _from_classes(file) if file.suffix == ".txt" else _from_yaml(file)


def _from_classes(file: Path) -> Config:
    root = file.parent.parent if file.parent.name == "labels" else file.parent
    names, problems = _names_of(file)
    return Config(file, root, names, ("images" if (root / "images").is_dir() else ".",), problems=problems)


def _from_darknet(file: Path) -> Config:
    try:
        pairs = [line.partition("=") for line in text_of(file).splitlines()]
    except Fault as fault:
        return Config(file, file.parent, problems=(f"{file.name}: {fault}",))
    values = {key.strip(): value.strip() for key, _, value in pairs}
    lists = {key: (value,) if value else () for key in ("train", "valid") for value in [values.get(key, "")]}
    # Its paths begin with data/, a folder that the archive does not have.
    names, problems = _names_of(file.parent / Path(values.get("names", "obj.names")).name)
    if not lists["train"]:
        problems = (*problems, f"{file.name}: train is missing; give the list of the training images")
    return Config(file, file.parent, names, lists["train"], lists["valid"], "valid", problems=problems)


def _names_of(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names in a text file, one on each line, and what is wrong with them."""
    try:
        names = [line.strip() for line in text_of(file).splitlines()]
    except Fault as fault:
        return (), (f"{file.name}: {fault}",)
    while names and not names[-1]:
        names.pop()
    problems = _name_problems(names) if names else ["no class is listed; write one name on each line"]
    return tuple(names), tuple(f"{file.name}: {line}" for line in problems)


def _from_yaml(file: Path) -> Config:
    try:
        content = yaml.load(text_of(file), _Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        return Config(file, file.parent, problems=(f"{file.name}{line}: not YAML: {error.problem}",))
    except (yaml.YAMLError, ValueError) as error:
        return Config(file, file.parent, problems=(f"{file.name}: {' '.join(str(error).split())}",))
    except RecursionError:
        return Config(file, file.parent, problems=(f"{file.name}: the YAML is nested too deeply",))
    if not isinstance(content, dict):
        return Config(file, file.parent, problems=(f"{file.name}: not a mapping; it needs train, val and names",))
    names, problems = _names(content)
    sides: dict[str, tuple[str, ...]] = {}
    for key in ("train", "val", "test"):
        value = content.get(key)
        paths = value if isinstance(value, list) else [value] if value else []
        if all(isinstance(path, str) for path in paths):
            sides[key] = tuple(paths)
        else:
            problems.append(f"{key} is {value!r:.60}; give a folder, a list of folders, or a .txt file")
    if not sides.get("train") and "train" in sides:
        problems.append("train is missing; give the folder of the training images")
    key = "val" if sides.get("val") else "test"
    return Config(
        file,
        _root(file, content.get("path")),
        names,
        sides.get("train", ()),
        sides.get(key, ()),
        key,
        ("test",) if key == "val" and sides.get("test") else (),
        "kpt_shape" in content,
        tuple(f"{file.name}: {line}" for line in problems),
    )


def _root(file: Path, path: object) -> Path:
    """Return the folder that `path` names, or the file's own one: a copied data set often names its old place."""
    written = file.parent / str(path) if path else file.parent
    return written if written.is_dir() else file.parent


def _names(content: dict[Any, Any]) -> tuple[tuple[str, ...], list[str]]:
    value, count = content.get("names"), content.get("nc")
    if isinstance(value, dict):
        if sorted(map(str, value)) != sorted(map(str, range(len(value)))):
            shown = ", ".join(map(str, list(value)[:10]))
            return (), [f"the keys of names are {shown}; they must be 0 to {len(value) - 1}, without gaps"]
        values = [value[key] for key in sorted(value, key=int)]
    elif isinstance(value, list):
        values = value
    else:
        return (), ["names is missing; list the classes: names: [cat, dog]"]
    wrong = [
        f"name {index} is {one!r:.60}, not text; put it in quotes"
        for index, one in enumerate(values)
        if not isinstance(one, str | int) or isinstance(one, bool)
    ]
    names = [str(one).strip() for one in values]
    problems = wrong or _name_problems(names)
    if not names:
        problems.append("names is empty; list the classes: names: [cat, dog]")
    if count is not None and count != len(names):
        problems.append(f"nc is {count!r:.20}, but names has {len(names)}; correct one of them")
    return tuple(names), problems


def _name_problems(names: list[str]) -> list[str]:
    problems = [f"name {index} is empty" for index, name in enumerate(names) if not name]
    for name, times in Counter(filter(None, names)).items():
        if times > 1:
            problems.append(f"{times} classes have the name {name!r}; rename or merge them")
    return problems
