"""Images in, results out: the vision tasks as a plain Python library that knows neither Ray nor HTTP.

    from foursight import models

    task = models.load("detect")
    image = models.decode(pathlib.Path("street.jpg").read_bytes())
    print(models.run(task, image))

Nothing heavy is imported until a task is loaded.
"""

from foursight.models.catalogue import load, run
from foursight.models.errors import ImageError, ModelError, OptionError, WeightsError
from foursight.models.image import decode
from foursight.schema.tasks import TASKS

__all__ = ["TASKS", "ImageError", "ModelError", "OptionError", "WeightsError", "decode", "load", "run"]
