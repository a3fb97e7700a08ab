"""Train the gates: the target of a cell is the best score that the SSD's heads have there. Needs no labels.

python -m research.detector.train_gates

Reads maps-train.pt and maps-choose.pt in the work folder (research.detector.cache_maps), writes gates.safetensors.
"""

import time

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from foursight.models import coco
from foursight.models.networks.ssd_rcnn.backbone import Gates
from foursight.models.networks.ssd_rcnn.boxes import PICKED
from research.detector.workspace import parser

STEPS, BATCH, RATE = 300, 6, 2e-3


def main() -> None:
    """Train on `train`, evaluate on `choose`, save."""
    chosen = parser(__doc__, data=False).parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(13)
    gates = Gates()
    train(gates, torch.load(chosen.work / "maps-train.pt"))
    evaluate(gates, torch.load(chosen.work / "maps-choose.pt"))
    save_file(gates.state_dict(), chosen.work / "gates.safetensors")


def batch(rows: list[dict[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """The maps "fine" and "ssd1" of images, and their targets float [N, 1, h, w]."""
    maps = [torch.stack([row[name] for row in rows]).float() for name in ("fine", "ssd1")]
    targets = [
        torch.stack([target(row["fine_logits"], 3, 30) for row in rows]),
        torch.stack([target(row["logits"][1083:1683], 6, 10) for row in rows]),
    ]
    return maps, targets


def target(logits: Tensor, shapes: int, side: int) -> Tensor:
    """The best score of each cell, float [1, side, side], from cached logits [A, 91]."""
    return logits[:, list(coco.IDS)].float().sigmoid().amax(1).view(side, side, shapes).amax(2)[None]


def train(gates: Gates, rows: list[dict[str, Tensor]]) -> None:
    """Train for STEPS batches, with a learning rate that falls to zero over the second half."""
    optimizer = torch.optim.AdamW(gates.parameters(), RATE)
    start = time.time()
    for step in range(STEPS):
        maps, targets = batch([rows[index] for index in torch.randint(len(rows), (BATCH,)).tolist()])
        found = [level(own) for level, own in zip(gates.levels, maps, strict=True)]
        loss = torch.stack([_loss(one, two) for one, two in zip(found, targets, strict=True)]).sum()
        optimizer.param_groups[0]["lr"] = RATE * min(1, (STEPS - step) / (STEPS / 2))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 25 == 24:
            print(step + 1, f"{float(loss.detach()):.4f}", f"{time.time() - start:.0f} s", flush=True)


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    # Cells with an object are few, and weigh more.
    weighted = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * (0.05 + targets)
    return weighted.sum() / targets.sum()


@torch.no_grad()
def evaluate(gates: Gates, rows: list[dict[str, Tensor]]) -> None:
    """Print the share of cells with a score that the gates pick."""
    maps, targets = batch(rows)
    for level, own, wanted, name in zip(gates.levels, maps, targets, ("fine", "ssd1"), strict=True):
        found, scores = level(own).flatten(1), wanted.flatten(1)
        picked = torch.zeros_like(scores).scatter(1, found.topk(PICKED[name][0]).indices, 1.0)
        for above in (0.05, 0.1, 0.3):
            cells = scores > above
            print(f"cells above {above}: {int(cells.sum())}, picked {float(picked[cells].mean()):.4f}")


if __name__ == "__main__":
    main()
