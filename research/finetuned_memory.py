"""Measure the memory of 1 and of 20 fine-tuned models over one network, in one process.

python -m research.finetuned_memory --model models/crops
"""

import argparse
from pathlib import Path

import psutil
from PIL import Image

from foursight import models
from foursight.models.catalogue import SupportsFineTuned
from foursight.models.finetuned import store


def main() -> None:
    """Print the unique set size after each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a model's folder")
    folder = parser.parse_args().model
    task = models.load(store.read_spec(folder.name, folder).task)
    assert isinstance(task, SupportsFineTuned)
    models.run(task, Image.new("RGB", (640, 480)))
    before = _uss()
    print(f"network and built-in head: {task.card.bytes / 2**20:.1f} MiB of tensors, process {before / 2**20:.1f} MiB")
    for count in (1, 20):
        for number in range(count):
            task.install(f"m{number}", folder)
            models.run(task, Image.new("RGB", (640, 480)), model=f"m{number}")
        tensors = sum(card.bytes for card in task.finetuned_cards())
        print(f"{count:2} models: {tensors / 2**20:.2f} MiB of tensors, process {(_uss() - before) / 2**20:+.1f} MiB")


def _uss() -> int:
    return int(psutil.Process().memory_full_info().uss)


if __name__ == "__main__":
    main()
