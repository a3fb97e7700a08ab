"""Class activation mapping: the box of a map is that of its maximum's connected component, as found by scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from foursight.models.networks import cam


@pytest.mark.parametrize("seed", range(20))
def test_the_box_is_that_of_the_connected_component(seed: int) -> None:
    torch.manual_seed(seed)
    maps = torch.nn.functional.interpolate(torch.randn(3, 1, 5, 5), size=(14, 14), mode="bicubic")[:, 0]
    large = torch.nn.functional.interpolate(maps[:, None], size=(cam.MAP_SIZE,) * 2, mode="bilinear")[:, 0].numpy()
    for one, box in zip(large, cam.box_of(maps).numpy(), strict=True):
        inside = one - one.min() >= cam.THRESHOLD * (one.max() - one.min())
        parts, _ = ndimage.label(inside, np.ones((3, 3)))
        rows, columns = np.nonzero(parts == parts[np.unravel_index(one.argmax(), one.shape)])
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(box * cam.MAP_SIZE, expected, atol=1e-4)


def test_the_map_is_that_of_the_best_class() -> None:
    class Network(torch.nn.Module):
        """Two classes, each active in one region."""

        def features(self, pixels: torch.Tensor) -> torch.Tensor:
            maps = torch.zeros(len(pixels), 2, 8, 8)
            maps[:, 0, 1:3, 1:3] = 1
            maps[:, 1, 5:7, 4:8] = 2
            return maps

        def classify(self, features: torch.Tensor) -> torch.Tensor:
            return features

    logits, maps = cam.ActivationMaps(Network())(torch.zeros(1, 3, 8, 8))
    boxes = cam.boxes(logits, maps)
    assert logits.argmax(1).tolist() == [1]
    # The second class is active in rows 5 and 6 of 8, columns 4 to 7; bilinear enlargement blurs the border.
    np.testing.assert_allclose(boxes[0], [0.5, 5 / 8, 1, 7 / 8], atol=0.06)
