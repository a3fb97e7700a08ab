"""The errors for data sets that cannot be used."""

from pathlib import Path

from foursight.models.errors import DataError


def bad_data(problems: tuple[str, ...]) -> DataError:
    """Return the error for a data set with these problems."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return DataError("bad_data", f"The data cannot be used: {count}.", "Correct the data and run it again.", problems)


def unreadable_line(path: Path, error: Exception) -> str:
    """Return the problem line for an image that cannot be decoded."""
    return f"{path.parent.name}/{path.name}: {getattr(error, 'detail', error)}"
