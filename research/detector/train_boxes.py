"""Train the box head as a residual on the SSD's outputs, on cells of proposals that are pooled once.

    python -m research.detector.train_boxes --data DATA --eval

Reads the maps of `train`, `fudan-train` and, with `--eval`, `choose` (research.detector.cache_maps) and
projection.safetensors in the work folder, and writes boxes.safetensors there. The target of a proposal's class grows
with its overlap, from 0 at IoU .4 to 1 at .8, so that of the boxes of one object the best one gets the highest score.
`--eval` compares with the SSD alone.
"""

import argparse
import math
import time

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_iou, generalized_box_iou_loss

from research.detector import data
from research.detector.evaluate import Evaluation, Found, line
from research.detector.networks.backbone import FINE_SIDE
from research.detector.networks.detector import best
from research.detector.networks.names import CLASS_IDS
from research.detector.networks.second_stage import BOX_MAPS, BOX_SIDE, MAPS, BoxHead, BoxPredictor, Projection, pool
from research.detector.networks.ssd_head import SIDE, anchors, decode
from research.detector.workspace import parser

CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
# Proposals of each image: those after them are background.
LEARNT = {"train": 64, "fudan-train": 32, "choose": 300}


def proposals_of(row: dict[str, Tensor], centred: Tensor) -> Tensor:
    """The proposals [P, 84] of the first stage from cached head outputs."""
    offsets = torch.cat([row["offsets"], row["fine_offsets"]]).float()
    logits = torch.cat([row["logits"], row["fine_logits"]])[:, list(CLASS_IDS)].float()
    return best((decode(offsets, centred) * FINE_SIDE).clamp(0, FINE_SIDE), logits)


def table(chosen: argparse.Namespace, name: str, projection: Projection) -> list[dict[str, Tensor]]:
    """For each image cells float16 [P, 128, 7, 7], proposals [P, 84], targets and weights [P, 80], truth [P, 4]."""
    centred = torch.cat([anchors(SIDE, SIDE), anchors(FINE_SIDE, FINE_SIDE, relative=False, levels=1)])
    found = []
    for row, photo in zip(torch.load(chosen.work / f"maps-{name}.pt"), data.read(chosen.data, name), strict=True):
        proposals = proposals_of(row, centred)[: LEARNT[name]]
        maps = projection({key: row[key][None].float() for key in MAPS})
        cells = pool(maps, [proposals[:, :4]], BOX_SIDE, BOX_MAPS, FINE_SIDE).half()
        found.append({"cells": cells, "proposals": proposals, **truth(proposals[:, :4], photo, "fudan" in name)})
    return found


def truth(boxes: Tensor, photo: data.Photo, people_only: bool) -> dict[str, Tensor]:
    """Targets and weights float [P, 80], the nearest object's box [P, 4], and whether it is near, bool [P]."""
    scale = torch.tensor([FINE_SIDE / photo.size[1], FINE_SIDE / photo.size[0]] * 2)
    rows = [item["bbox"] for item in photo.objects]
    corners = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
    objects = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1) * scale
    crowd = torch.tensor([bool(item["iscrowd"]) for item in photo.objects], dtype=torch.bool)
    columns = torch.tensor([CLASS_IDS.index(item["category_id"]) for item in photo.objects], dtype=torch.int64)
    target, weight = torch.zeros(len(boxes), 80), torch.ones(len(boxes), 80)
    if people_only:
        weight[:, 1:] = 0
    if crowd.any():
        low = torch.max(boxes[:, None, :2], objects[crowd][:, :2])
        high = torch.min(boxes[:, None, 2:], objects[crowd][:, 2:])
        area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1)
        weight[((high - low).clamp(min=0).prod(2) / area[:, None]).amax(1) > 0.5] = 0
    objects, columns = objects[~crowd], columns[~crowd]
    if not len(objects):
        return {"target": target, "weight": weight, "near": torch.zeros(len(boxes), dtype=torch.bool), "truth": boxes}
    overlap = box_iou(boxes, objects)
    for column in set(columns.tolist()):
        target[:, column] = ((overlap[:, columns == column].amax(1) - 0.4) / 0.4).clamp(0, 1)
    nearest, which = overlap.max(1)
    weight[target > 0] = 1
    return {"target": target, "weight": weight, "near": nearest >= 0.5, "truth": objects[which]}


class BoxBranch(nn.Module):
    """The modules that are trained."""

    def __init__(self, names: bool) -> None:
        super().__init__()
        self.box_head, self.box_predictor = BoxHead(), BoxPredictor()
        self.box_predictor.names.requires_grad_(names)

    def forward(self, cells: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Map cells [P, 128, 7, 7] and logits [P, 80] to logits [P, 80] and deltas [P, 4]."""
        found: tuple[Tensor, Tensor] = self.box_predictor(self.box_head((cells, logits)))
        return found


def train(known: list[dict[str, Tensor]], arguments: argparse.Namespace) -> BoxBranch:
    """Train a branch for `epochs` or `minutes`, whichever is less."""
    noise = torch.Generator().manual_seed(13)
    branch = BoxBranch(arguments.names)
    optimizer = torch.optim.AdamW([p for p in branch.parameters() if p.requires_grad], arguments.rate, weight_decay=0.1)
    batch, start, done = 8, time.time(), 0
    steps = arguments.epochs * len(known) // batch
    losses: list[tuple[float, float]] = []
    while done < steps:
        part = max(done / steps, (time.time() - start) / (60 * arguments.minutes))
        if part >= 1:
            break
        optimizer.param_groups[0]["lr"] = arguments.rate * min(1, (done + 1) / 20) * (1 + math.cos(math.pi * part)) / 2
        rows = [known[place] for place in torch.randint(len(known), (batch,), generator=noise).tolist()]
        one = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
        cells = F.dropout2d(one["cells"].float(), 0.2)
        logits, deltas = branch(cells, one["proposals"][:, 4:])
        # Hard proposals weigh more, as in generalised focal loss (Li et al. 2020).
        hardness = (logits.sigmoid() - one["target"]).abs().detach() * one["weight"]
        scores = F.binary_cross_entropy_with_logits(logits, one["target"], reduction="none") * hardness
        near = one["near"]
        moved = CODER.decode(deltas[near], [one["proposals"][near, :4]])[:, 0]
        places = generalized_box_iou_loss(moved, one["truth"][near], reduction="mean")
        loss = scores.sum() / one["target"].sum().clamp(min=1) + 2 * places
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done += 1
        losses.append((float(scores.sum().detach() / one["target"].sum()), float(places.detach())))
        if done % 40 == 0:
            last = torch.tensor(losses[-40:]).mean(0).tolist()
            print(f"{done}/{steps} scores {last[0]:.4f} places {last[1]:.4f} {time.time() - start:.0f} s", flush=True)
    return branch.eval()


@torch.inference_mode()
def look(branch: BoxBranch, row: dict[str, Tensor], photo: data.Photo, scores: bool, places: bool) -> Found:
    """The predictions for an image if the branch corrects scores, places, both or neither."""
    given, boxes = row["proposals"][:, 4:], row["proposals"][:, :4]
    logits, deltas = branch(row["cells"].float(), given)
    values = (logits if scores else given).sigmoid()
    if places:
        boxes = CODER.decode(deltas, [boxes])[:, 0].clamp(0, FINE_SIDE)
    rows, names = (values > 0.02).nonzero(as_tuple=True)
    best_first, order = values[rows, names].topk(min(1000, len(rows)))
    rows, names = rows[order], names[order]
    keep = batched_nms(boxes[rows], best_first, names, 0.5)[:100]
    own = boxes[rows[keep]] * torch.tensor([photo.size[1] / FINE_SIDE, photo.size[0] / FINE_SIDE] * 2)
    return Found(own.numpy(), best_first[keep].numpy(), torch.tensor(CLASS_IDS)[names[keep]].numpy())


def main() -> None:
    """Train, save, compare."""
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--minutes", type=float, default=6, help="the schedule is cut to this time")
    options.add_argument("--rate", type=float, default=5e-4)
    options.add_argument("--names", action="store_true", help="also correct the scores of single classes")
    options.add_argument("--eval", action="store_true", help="compare with the SSD alone on `choose`")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(13)
    projection = Projection()
    projection.load_state_dict(load_file(chosen.work / "projection.safetensors"))
    tables = {}
    for name in ("train", "fudan-train", *(("choose",) if chosen.eval else ())):
        path = chosen.work / f"boxes-{name}.pt"
        if not path.exists():
            with torch.no_grad():
                torch.save(table(chosen, name, projection), path)
        tables[name] = torch.load(path)
    branch = train(tables["train"] + tables["fudan-train"], chosen)
    state = {key: value.contiguous() for key, value in branch.state_dict().items()}
    save_file(state, chosen.work / "boxes.safetensors")
    if chosen.eval:
        photos = data.read(chosen.data, "choose")
        for scores, places in ((False, False), (True, False), (False, True), (True, True)):
            found = [look(branch, row, p, scores, places) for row, p in zip(tables["choose"], photos, strict=True)]
            print(f"choose: scores {scores} places {places}: {line(Evaluation(photos, found).summary())}", flush=True)


if __name__ == "__main__":
    main()
