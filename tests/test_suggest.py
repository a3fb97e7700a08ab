"""Suggestions for mistyped names."""

import pytest
from pydantic import Field

from foursight.schema.options import Options
from foursight.schema.suggest import close_matches, suggest


class Chosen(Options):
    score_threshold: float = Field(0.5, json_schema_extra={"synonyms": ["conf", "confidence"]})
    max_detections: int = 100
    top_k: int = 5


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("conf", "score_threshold"),
        ("--conf", "score_threshold"),
        ("confidnce", "score_threshold"),
        ("score-threshold", "score_threshold"),
        ("topk", "top_k"),
        ("TOP_K", "top_k"),
        ("max_detection", "max_detections"),
        ("colour", None),
        ("", None),
    ],
)
def test_a_mistyped_name_suggests_the_field_it_was_meant_to_be(name: str, meant: str | None) -> None:
    assert suggest(name, Chosen) == meant


def test_close_matches_come_closest_first_and_as_they_are_spelt() -> None:
    assert close_matches("persn", ["parson", "Person", "cat"]) == ["Person", "parson"]
    assert close_matches("zebra", ["Person", "cat"]) == []
