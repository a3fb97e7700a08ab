"""Images in, results out: the vision tasks as a plain Python library, without a server.

    from foursight import models

    task = models.load("detect")
    image = models.decode(pathlib.Path("street.jpg").read_bytes())
    print(models.run(task, image))

Each room imports only from those below it (tests/test_architecture.py):

    training/ inspection/   fine-tuning; layer tables and explanations
    evaluation/             metrics
    catalogue               loading and running a task by name
    tasks/                  classify, localize, detect, segment
    engines/ finetuned/     how networks are computed; fine-tuned models on disk
    networks/               architectures and their weights
    image region labels results   decoding, crops, class names, return values
    errors folders          the tree of errors; cache and data folders

torch is imported when a task is loaded.
"""

from foursight.models.catalogue import load, run
from foursight.models.errors import ImageError, ModelError, OptionError, WeightsError
from foursight.models.image import decode
from foursight.schema.tasks import TASKS

__all__ = ["TASKS", "ImageError", "ModelError", "OptionError", "WeightsError", "decode", "load", "run"]
