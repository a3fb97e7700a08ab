"""The private folder of a server, /tmp/fs-<uid>-<pid>-<random>, and the cleanup after servers that were killed."""

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

# Not $TMPDIR: the path of a socket has at most 107 characters, and Ray and HAProxy use 80 below this folder.
ROOT = Path("/tmp")


@contextmanager
def create() -> Iterator[Path]:
    """Yield a new folder for sockets and logs that only this user can enter."""
    folder = ROOT / f"fs-{os.getuid()}-{os.getpid()}-{secrets.token_hex(2)}"
    folder.mkdir(mode=0o700)
    yield folder
    # Not in a `finally`: after a failed start the logs are needed.
    shutil.rmtree(folder, ignore_errors=True)


def remove() -> None:
    """Delete the folder of this process."""
    for folder in ROOT.glob(f"fs-{os.getuid()}-{os.getpid()}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def clean_up_orphans(root: Path = ROOT) -> None:
    """Kill the processes of this user's servers whose parent was killed, and delete their folders.

    Ray's processes notice the death of their parent by themselves, but only after up to a minute, and hold the port
    until then.
    """
    for folder in root.glob(f"fs-{os.getuid()}-*"):
        if not _is_left_over(folder):
            continue
        orphans = [process for process in psutil.process_iter() if _belongs_to(process, folder)]
        for process in orphans:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(orphans, timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(folder: Path) -> bool:
    """Whether a folder was made by `create`, in a process of this user that has ended."""
    name = re.fullmatch(rf"fs-{os.getuid()}-(\d+)-[0-9a-f]{{4}}", folder.name)
    if name is None:
        return False
    # Any user can make a folder, or a link, of this name in /tmp.
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    # In a restarted container, this process can have the same id as the one that was killed.
    owner = int(name[1])
    return owner == os.getpid() or not psutil.pid_exists(owner)


def _belongs_to(process: psutil.Process, folder: Path) -> bool:
    """Whether a process is one of Ray's or HAProxy, with a file open in the folder: not, say, a `tail -f` of a log."""
    try:
        return _is_servers(process) and any(Path(file.path).is_relative_to(folder) for file in process.open_files())
    except psutil.Error:
        return False


def _is_servers(process: psutil.Process) -> bool:
    if process.name() in {"raylet", "gcs_server", "haproxy"}:
        return True
    command = process.cmdline() or [""]
    # Workers change their title; Ray's agents are Python scripts in its package.
    is_python = Path(command[0]).name.startswith("python")
    return command[0].startswith("ray::") or (is_python and any("/ray/" in word for word in command[1:]))
