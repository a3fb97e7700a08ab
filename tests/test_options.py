"""The declarations that HTTP, the SDK, the command line and the page derive from."""

import pytest
from pydantic import ValidationError

from foursight.schema.analyze import AnalyzeOptions
from foursight.schema.layers import LayersOptions
from foursight.schema.options import DetectOptions, Options
from foursight.schema.tasks import TASKS
from tools import generate_sdk_options

KINDS = [*(task.options for task in TASKS.values()), AnalyzeOptions, LayersOptions]


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_described_in_a_sentence(kind: type[Options]) -> None:
    for field in kind.model_fields.values():
        assert field.description
        assert field.description.endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_no_option_is_called_by_a_synonym_of_another(kind: type[Options]) -> None:
    synonyms = kind.synonyms()
    assert synonyms.keys().isdisjoint(kind.model_fields)
    assert set(synonyms.values()) <= kind.model_fields.keys()


def test_names_that_other_libraries_use_lead_to_ours() -> None:
    synonyms = TASKS["segment"].options.synonyms() | TASKS["classify"].options.synonyms()
    expected = {
        "score_threshold": ("conf", "confidence", "threshold", "min_score"),
        "top_k": ("topk", "k", "top"),
        "classes": ("labels", "class", "filter"),
        "max_detections": ("max_det", "limit"),
        "mask_format": ("masks",),
    }
    for name, others in expected.items():
        assert {synonyms[other] for other in others} == {name}


def test_options_cannot_be_changed_and_refuse_names_that_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DetectOptions().max_detections = 3
    with pytest.raises(ValidationError, match="conf"):
        DetectOptions(conf=0.5)  # type: ignore[call-arg]


def test_the_options_of_the_sdk_are_those_declared() -> None:
    written = generate_sdk_options.TARGET.read_text(encoding="utf-8")
    assert written == generate_sdk_options.generate(), "run: python -m tools.generate_sdk_options"
