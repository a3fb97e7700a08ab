"""Lists of names as text: comma-separated, and quoted as in CSV if a name has a comma: `cat,"mug, blue"`."""

import csv
from collections.abc import Iterable
from io import StringIO


def split_names(text: str) -> list[str]:
    """Split text into names, without the spaces around them. Raises ValueError if a quote has no partner."""
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"it is not a list of names ({error})") from None
    return [name.strip() for row in rows for name in row] or [""]


def join_names(names: Iterable[str]) -> str:
    """Return the text that `split_names` splits into the same names."""
    out = StringIO()
    csv.writer(out, lineterminator="").writerow(list(names))
    return out.getvalue()
