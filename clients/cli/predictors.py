"""The predictors that `foursight evaluate` measures: a model of a server, or one in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foursight.clients.cli.server import require_server
from foursight.clients.sdk.client import Client
from foursight.models.evaluation.predictor import EvaluationError, Predictor
from foursight.schema import ModelCard, Prediction
from foursight.schema.tasks import TASKS

if TYPE_CHECKING:
    from foursight.models.results import Profile

# AP needs the objects at every threshold. Detectors return nothing below this score.
_LOWEST_SCORE = 0.05
_TOP = 5
_CONCURRENCY = 4
_TIMEOUT_S = 120


def from_server(url: str, api_key: str | None, task: str | None, model: str | None, tiles: int) -> Predictor:
    """Return a server's model: the fine-tuned one of that name, or a task's built-in one. Raises EvaluationError."""
    card = _find_card(require_server(url, api_key), url, task, model)
    client = Client(url, api_key, timeout=_TIMEOUT_S)
    options = _options(card.task, card.name if card.finetuned else None, tiles)

    def predict(image: bytes) -> Sequence[Prediction]:
        return [one.to_wire() for one in client.run(card.task, image, **options).predictions]

    has_wnids = not card.finetuned and card.task in ("classify", "localize")
    return Predictor(card.task, card.name, card.labels, has_wnids, predict, _CONCURRENCY)


def in_process(
    task: str | None, profile: "Profile", model: str | None, models_dir: Path | None, tiles: int
) -> Predictor:
    """Load a model into this process. Raises EvaluationError."""
    from foursight import models  # noqa: PLC0415
    from foursight.clients.cli import finetuned, local  # noqa: PLC0415
    from foursight.serving.encoding import to_answer  # noqa: PLC0415

    try:
        found = finetuned.find(model, models_dir) if model else None
        chosen = task or (found.task if found else "classify")
        loaded, card = local.load_model(chosen, found, profile)
    except models.ModelError as error:
        raise EvaluationError(str(error)) from None
    options = _options(chosen, card.name if found else None, tiles)

    def predict(image: bytes) -> Sequence[Prediction]:
        decoded = models.decode(image)
        return to_answer(card.name, decoded.size, models.run(loaded, decoded, **options), "rle").predictions

    return Predictor(chosen, card.name, card.labels, not found and chosen in ("classify", "localize"), predict)


def _find_card(cards: list[ModelCard], url: str, task: str | None, model: str | None) -> ModelCard:
    if model is None:
        built_in = [card for card in cards if card.task == task and not card.finetuned]
        if not built_in:
            raise EvaluationError(f"The server at {url} does not serve {task}.")
        return built_in[0]
    named = [card for card in cards if card.name == model and task in (None, card.task)]
    if not named:
        purpose = f" for {task}" if task else ""
        there = ", ".join(card.name for card in cards if task in (None, card.task))
        raise EvaluationError(f"The server at {url} has no model {model!r}{purpose}. Its models: {there}.")
    return named[0]


def _options(task: str, model: str | None, tiles: int) -> dict[str, Any]:
    """Return options for as many predictions as the figures take into account."""
    wanted = {
        "top_k": 1 if TASKS[task].has_boxes else _TOP,
        "score_threshold": _LOWEST_SCORE,
        "max_detections": 100,
        "tiles": tiles,
    }
    if TASKS[task].finds == "labels":
        del wanted["score_threshold"]
    known = TASKS[task].options.model_fields
    return {name: value for name, value in (wanted | {"model": model}).items() if name in known and value is not None}
