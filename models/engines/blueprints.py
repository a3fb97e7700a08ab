"""The built-in networks that `loader.load` loads, without PyTorch: who builds them, and from which files.

Each function raises WeightsError if a file is missing, or for a classifier of the tiny profile ModuleNotFoundError.
"""

from foursight.models.engines.loader import Blueprint
from foursight.models.networks import presets
from foursight.models.networks.ssd_rcnn import interface
from foursight.models.results import Profile

CLASSIFIERS, DETECTORS = "foursight.models.engines.classifiers", "foursight.models.engines.detectors"


def features(profile: Profile) -> Blueprint:
    """Return the blueprint of `classifiers.Features`."""
    return Blueprint(f"{CLASSIFIERS}:features", (profile,), presets.weights_of(profile))


def head(profile: Profile) -> Blueprint:
    """Return the blueprint of `classifiers.Head`."""
    return Blueprint(f"{CLASSIFIERS}:head", (profile,), presets.weights_of(profile))


def whole_image(profile: Profile) -> Blueprint:
    """Return the blueprint of `classifiers.WholeImage`."""
    own = (presets.LOCALIZER_WEIGHTS,) if profile == "tiny" else ()
    return Blueprint(f"{CLASSIFIERS}:whole_image", (profile,), (*presets.weights_of(profile), *own))


def scene() -> Blueprint:
    """Return the blueprint of `detectors.Scene`."""
    return Blueprint(f"{DETECTORS}:scene", (), (interface.graph_path(), interface.WEIGHTS))


def outlines() -> Blueprint:
    """Return the blueprint of `detectors.Outlines`."""
    return Blueprint(f"{DETECTORS}:outlines", (), (interface.graph_path(), interface.WEIGHTS))
