"""Folders for files that outlive a process: the user's cache and data folders, as the operating system names them."""

from pathlib import Path

from platformdirs import user_cache_path, user_data_path


def cache_folder(kind: str) -> Path:
    """Return the folder for a kind of derived files, which may be deleted at any time.

    On Linux ~/.cache/foursight/KIND, or $XDG_CACHE_HOME/foursight/KIND.
    """
    return user_cache_path("foursight", appauthor=False) / kind


def data_folder(kind: str) -> Path:
    """Return the folder for a kind of the user's own files.

    On Linux ~/.local/share/foursight/KIND, or $XDG_DATA_HOME/foursight/KIND.
    """
    return user_data_path("foursight", appauthor=False) / kind
