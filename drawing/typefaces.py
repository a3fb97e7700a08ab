"""Which font draws which text: the bundled one, or one that fontconfig finds on this machine.

The bundled font has Latin, Greek and Cyrillic. Fonts for all scripts would be larger than the rest of the package.
"""

import shutil
import subprocess
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from itertools import groupby

from PIL import ImageFont, features

_BUNDLED = "fonts/Inter-SemiBold.otf"
_TIMEOUT_S = 10
# No text has this character.
_UNASSIGNED = "\U0010ffff"
# Emoji, skin tones, joiners and directions, which no outline font has. They are left out if other characters remain.
_SYMBOLS = ("So", "Sk")
_INVISIBLE = "\u200d\u200e\u200f\ufe0e\ufe0f"

Face = tuple[str, int]  # file, and number of the font in it
BUNDLED: Face = ("", 0)
_found: dict[frozenset[str], Face] = {}


def runs(text: str) -> Iterator[tuple[Face, str]]:
    """Split text into parts and the font of each. The text must be `drawable`."""
    own = groupby(text, _has_bundled)
    for bundled, characters in own:
        part = "".join(characters)
        yield (BUNDLED if bundled else _find(part) or BUNDLED), part


def drawable(label: str, otherwise: str) -> str:
    """Return a label without the symbols that no font has; `otherwise` if other characters cannot be drawn either."""
    kept = "".join(
        one for one in label if _has_bundled(one) or not (unicodedata.category(one) in _SYMBOLS or one in _INVISIBLE)
    ).strip()
    parts = ["".join(part) for bundled, part in groupby(kept, _has_bundled) if not bundled]
    return kept if kept and all(map(_find, parts)) else otherwise


@lru_cache(maxsize=256)
def load(face: Face, em: int) -> ImageFont.FreeTypeFont:
    """Return a font in a size."""
    if face == BUNDLED:
        # Raqm, the other layout engine, is missing from some builds of Pillow.
        data = BytesIO(files("foursight.drawing").joinpath(_BUNDLED).read_bytes())
        return ImageFont.truetype(data, em, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.truetype(face[0], em, index=face[1])


@lru_cache(maxsize=4096)
def _has_bundled(character: str) -> bool:
    return character.isspace() or _shape(character) != _shape(_UNASSIGNED)


def _shape(character: str) -> tuple[bytes, tuple[int, int]]:
    mask = load(BUNDLED, 32).getmask(character)
    return bytes(mask), mask.size


def _find(text: str) -> Face | None:
    """Return an installed font that has all characters and joins them as their script needs; None without one."""
    characters = frozenset(text)
    # A shortened label has the font of the whole one.
    face = next((face for known, face in _found.items() if characters <= known), None)
    if face is None and (face := _ask_fontconfig(text)):
        _found[characters] = face
    return face


@lru_cache(maxsize=1024)
def _ask_fontconfig(text: str) -> Face | None:
    program = shutil.which("fc-list")
    if program is None or (_needs_shaping(text) and not features.check("raqm")):
        return None
    charset = " ".join(f"{ord(one):x}" for one in sorted(set(text)) if not one.isspace())
    command = [program, f":scalable=true:color=false:charset={charset}", "--format", "%{weight} %{index} %{file}\n"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    faces = []
    for line in found.splitlines():
        weight, index, file = line.split(" ", 2)
        # The upper half of the index numbers the variants of a variable font.
        if weight.isdecimal() and index.isdecimal() and int(index) < 2**16:
            # 180 is semi-bold, as the bundled font.
            faces.append((abs(int(weight) - 180), file, int(index)))
    return min(faces)[1:] if faces else None


def _needs_shaping(text: str) -> bool:
    """Whether letters change with their neighbours or run from right to left: Arabic, Hebrew, Thai, Hindi, ..."""
    return any(
        unicodedata.bidirectional(one) in ("R", "AL") or unicodedata.category(one) in ("Mn", "Mc") for one in text
    )
