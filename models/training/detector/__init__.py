"""Fine-tuning of detect and segment over the tiny profile's network."""

from foursight.models.training.detector.finetune import Options, Outcome, Task, finetune
from foursight.models.training.detector.report import write

__all__ = ["Options", "Outcome", "Task", "finetune", "write"]
