"""The options and folders that the programs of this study share."""

import argparse
from pathlib import Path

from foursight.models.folders import cache_folder

WEIGHTS = Path(__file__).parent / "weights"
DATA_HELP = "folder with coco/, coco_more/ and pennfudan/ (instances.json and images/), and animals/ (see README.md)"


def parser(description: str, data: bool = True) -> argparse.ArgumentParser:
    """A parser with `--data`, if asked, `--work` and `--threads`."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    if data:
        made.add_argument("--data", type=Path, required=True, help=DATA_HELP)
    made.add_argument("--work", type=Path, default=cache_folder("detector-study"), help="intermediate files")
    made.add_argument("--threads", type=int, default=2)
    return made
