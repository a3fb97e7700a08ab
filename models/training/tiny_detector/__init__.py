"""Fine-tuning of detect and segment over the tiny profile's network, and the training of that network itself."""

from foursight.models.training.tiny_detector.finetune import Options, Outcome, Task, device_for, finetune
from foursight.models.training.tiny_detector.report import write

__all__ = ["Options", "Outcome", "Task", "device_for", "finetune", "write"]
