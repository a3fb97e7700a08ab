"""The network of research/detector, with random parameters in place of the SSD's."""

import torch
from research.detector.networks import detector
from research.detector.networks.backbone import COARSE_LEVELS, FINE_SIDE
from research.detector.networks.mobilenet import HEAD_LEVELS, MobileNetSsd
from research.detector.networks.names import CLASS_IDS
from research.detector.networks.second_stage import BOX_CHANNELS, BOX_SIDE, BoxHead, BoxPredictor
from research.detector.networks.sparse_head import SparseHead, gather, pick
from research.detector.networks.ssd_head import SIDE, SsdHead, anchors
from safetensors.torch import load_file

CELLS = {"ssd0": 19, "ssd1": 10, "ssd2": 5, "ssd3": 3, "ssd4": 2, "ssd5": 1}


@torch.no_grad()
def test_picked_cells_have_the_outputs_of_the_dense_heads() -> None:
    noise = torch.Generator().manual_seed(1)
    head = SsdHead()
    maps = {
        name: torch.randn(2, channels, CELLS[name], CELLS[name], generator=noise)
        for name, (channels, _) in HEAD_LEVELS.items()
    }
    maps["fine"] = torch.randn(2, 576, 30, 30, generator=noise)
    gates = {name: torch.randn(2, 1, *maps[name].shape[2:], generator=noise) for name in ("fine", "ssd0", "ssd1")}
    dense = zip(head([maps["fine"]]), head([maps[name] for name in COARSE_LEVELS]), strict=True)
    offsets, logits = (torch.cat(both, 1) for both in dense)
    places = torch.cat([anchors(FINE_SIDE, FINE_SIDE, relative=False, levels=1), anchors(SIDE, SIDE)])

    picked = pick(gates, maps)
    found, scores, centred = gather(SparseHead(head)(picked.taps, maps), picked, FINE_SIDE, FINE_SIDE)

    assert found.shape[1] == 100 * 3 + 60 * 3 + 30 * 6 + 150 + 54 + 24 + 6
    for image in range(2):
        # The position of an anchor identifies its row.
        rows = torch.cdist(centred[image], places).argmin(1)
        assert torch.equal(places[rows], centred[image])
        assert torch.allclose(found[image], offsets[image, rows], atol=1e-4)
        assert torch.allclose(scores[image], logits[image, rows][:, list(CLASS_IDS)], atol=1e-4)


@torch.no_grad()
def test_an_untrained_box_head_changes_neither_scores_nor_boxes() -> None:
    cells, logits = torch.randn(5, BOX_CHANNELS, BOX_SIDE, BOX_SIDE), torch.randn(5, len(CLASS_IDS))
    found, deltas = BoxPredictor()(BoxHead()((cells, logits)))
    assert torch.equal(found, logits)
    assert not deltas.any()


@torch.no_grad()
def test_the_stored_weights_fit_the_network() -> None:
    network = detector.compose(MobileNetSsd(), SsdHead(), masks=True, score_threshold=0.0)
    detector.restore(network, load_file(detector.WEIGHTS / "detector.safetensors"))
    (found,) = network([torch.rand(3, 90, 120, generator=torch.Generator().manual_seed(1))])
    assert found["boxes"].shape == (100, 4)
    assert found["masks"].shape == (100, 1, 90, 120)
    assert 1 <= int(found["labels"].min()) <= int(found["labels"].max()) <= len(CLASS_IDS)
