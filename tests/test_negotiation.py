"""Content negotiation by the Accept header, and options from the query string."""

import subprocess
import sys

import pytest

from foursight.models.errors import OptionError
from foursight.schema.options import ClassifyOptions, DetectOptions, LocalizeOptions, Options, SegmentOptions
from foursight.serving.analyze_request import read_query
from foursight.serving.errors import ApiError
from foursight.serving.query import parse_options
from foursight.serving.responses import negotiate

JSON, JPEG, PNG = "application/json", "image/jpeg", "image/png"
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
CHROME_IMG = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        pytest.param("", JSON, id="none"),
        pytest.param(" , ", JSON, id="an empty list"),
        pytest.param("*/*", JSON, id="curl, httpx, requests"),
        pytest.param(CHROME, JSON, id="a browser's page"),
        pytest.param(CHROME_IMG, JPEG, id="a browser's picture"),
        (JSON, JSON),
        (JPEG, JPEG),
        (PNG, PNG),
        ("IMAGE/PNG", PNG),
        ("image/*", JPEG),
        ("application/*", JSON),
        ("application/json; charset=utf-8", JSON),
        ("text/html, image/png", PNG),
        ("image/webp, image/png", PNG),
        ("image/png, image/jpeg", JPEG),
        ("image/png, image/jpeg;q=0.9", PNG),
        ("application/json;q=0.5, image/png;q=0.6", PNG),
        ("application/json;q=0.5,image/png;q=0.4", JSON),
        ("application/json; q=0.1 , image/*; q=0.2", JPEG),
        pytest.param("image/*;q=0.5, image/png;q=0.9", PNG, id="the more specific range counts for PNG"),
        pytest.param("image/*, image/jpeg;q=0.1", PNG, id="the more specific range counts for JPEG"),
        pytest.param("*/*, application/json;q=0", JPEG, id="anything but JSON"),
        pytest.param("image/png;q=0, image/*;q=0.3", JPEG, id="a picture but no PNG"),
        pytest.param("image/png, */*;q=0.1", PNG, id="PNG, else anything"),
        pytest.param("image/png;q=0.5, */*", JSON, id="anything rather than PNG"),
        pytest.param("image/png;q=high, image/jpeg;q=0.1", JPEG, id="a quality that is no number counts for nothing"),
    ],
)
def test_an_accept_header_gets_the_format_that_it_prefers(accept: str, expected: str) -> None:
    assert negotiate(accept) == expected


@pytest.mark.parametrize(
    "accept",
    ["text/html", "image/webp", "video/*", "application/json;q=0", "*/*;q=0", "image/*;q=0", "*", "image/png;q=x"],
)
def test_an_accept_header_that_rules_out_every_format_is_refused_with_the_available_ones(accept: str) -> None:
    with pytest.raises(ApiError) as caught:
        negotiate(accept)
    assert caught.value.code == "not_acceptable"
    assert accept in caught.value.detail
    assert all(media_type in caught.value.hint for media_type in (JSON, JPEG, PNG))


@pytest.mark.parametrize(
    ("query", "kind", "expected"),
    [
        ("", ClassifyOptions, {"top_k": 5, "score_threshold": 0.0, "classes": None}),
        ("top_k=3", ClassifyOptions, {"top_k": 3}),
        ("top_k=1000&score_threshold=1", ClassifyOptions, {"top_k": 1000, "score_threshold": 1.0}),
        ("score_threshold=.25", DetectOptions, {"score_threshold": 0.25, "max_detections": 100}),
        ("classes=person", DetectOptions, {"classes": ["person"]}),
        ("classes=person,%20traffic+light", DetectOptions, {"classes": ["person", "traffic light"]}),
        ("classes=person%2Ccat", DetectOptions, {"classes": ["person", "cat"]}),
        ("mask_format=polygon&max_detections=1", SegmentOptions, {"mask_format": "polygon", "max_detections": 1}),
        ("", SegmentOptions, {"mask_format": "rle", "score_threshold": 0.5}),
        ("", LocalizeOptions, {"top_k": 1}),
    ],
)
def test_a_query_gives_the_options(query: str, kind: type[Options], expected: dict[str, object]) -> None:
    options = parse_options(query, kind)
    assert {name: getattr(options, name) for name in expected} == expected


def test_options_are_read_and_answers_encoded_without_a_web_framework() -> None:
    """As the CLI does for its local predictions."""
    code = "import sys; sys.modules |= dict.fromkeys(('starlette', 'ray')); "
    imports = "import foursight.serving.encoding, foursight.serving.query, foursight.serving.errors"
    subprocess.run([sys.executable, "-c", code + imports], check=True)


@pytest.mark.parametrize(
    ("query", "kind", "code", "named"),
    [
        ("topk=3", ClassifyOptions, "unknown_parameter", "'topk'"),
        ("mask_format=rle", DetectOptions, "unknown_parameter", "'mask_format'"),
        ("classes=cat", LocalizeOptions, "unknown_parameter", "'classes'"),
        ("TOP_K=3", ClassifyOptions, "unknown_parameter", "'TOP_K'"),
        ("top_k=0", ClassifyOptions, "invalid_parameter", "top_k='0'"),
        ("top_k=1001", ClassifyOptions, "invalid_parameter", "1000"),
        ("top_k=many", ClassifyOptions, "invalid_parameter", "top_k='many'"),
        ("top_k=2.5", ClassifyOptions, "invalid_parameter", "top_k='2.5'"),
        ("top_k=", ClassifyOptions, "invalid_parameter", "top_k=''"),
        ("top_k", ClassifyOptions, "invalid_parameter", "top_k=''"),
        ("top_k=1&top_k=2", ClassifyOptions, "invalid_parameter", "twice"),
        ("score_threshold=-0.1", ClassifyOptions, "invalid_parameter", "score_threshold='-0.1'"),
        ("score_threshold=1.01", DetectOptions, "invalid_parameter", "score_threshold='1.01'"),
        ("score_threshold=0.04", DetectOptions, "invalid_parameter", "0.05"),
        ("score_threshold=nan", DetectOptions, "invalid_parameter", "score_threshold='nan'"),
        ("score_threshold=inf", DetectOptions, "invalid_parameter", "score_threshold='inf'"),
        ("max_detections=101", DetectOptions, "invalid_parameter", "100"),
        ("classes=", DetectOptions, "invalid_parameter", "empty"),
        ("classes=person,", DetectOptions, "invalid_parameter", "empty"),
        ("mask_format=png", SegmentOptions, "invalid_parameter", "'polygon'"),
        ("mask_format=RLE", SegmentOptions, "invalid_parameter", "'rle'"),
    ],
)
def test_a_wrong_query_is_refused_with_what_was_wrong(query: str, kind: type[Options], code: str, named: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_options(query, kind)
    assert caught.value.code == code
    assert named in caught.value.detail
    assert caught.value.hint


@pytest.mark.parametrize(
    ("query", "kind", "hint"),
    [
        (
            "topk=3",
            SegmentOptions,
            "Valid parameters: model, score_threshold, max_detections, classes, tiles, mask_format.",
        ),
        ("topk=3", LocalizeOptions, "Did you mean 'top_k'? Valid parameters: model, top_k."),
        (
            "conf=.3",
            DetectOptions,
            "Did you mean 'score_threshold'? Valid parameters: model, score_threshold, max_detections, classes, tiles.",
        ),
    ],
)
def test_an_unknown_parameter_is_answered_with_the_closest_one_and_all_valid_ones(
    query: str, kind: type[Options], hint: str
) -> None:
    with pytest.raises(OptionError) as caught:
        parse_options(query, kind)
    assert caught.value.detail == f"Unknown parameter {query.partition('=')[0]!r}."
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("query", "kind", "hint"),
    [
        ("score_threshold=2", DetectOptions, "Pass a number from 0.05 to 1."),
        ("top_k=many", ClassifyOptions, "Pass an integer from 1 to 1000."),
        ("mask_format=png", SegmentOptions, "Valid values: rle, polygon, none."),
    ],
)
def test_the_hint_for_an_invalid_value_has_the_valid_ones(query: str, kind: type[Options], hint: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_options(query, kind)
    assert caught.value.hint.startswith(hint)


def test_analyze_suggests_only_parameters_of_the_tasks_it_runs() -> None:
    with pytest.raises(OptionError) as caught:
        read_query("tasks=detect&conf=.3", ("classify", "detect"))
    assert caught.value.hint.startswith("Did you mean 'score_threshold'? Valid parameters: tasks, then, model,")
    with pytest.raises(OptionError) as caught:
        read_query("tasks=detect&topk=3", ("classify", "detect"))
    assert "top_k" not in caught.value.hint
    with pytest.raises(OptionError) as caught:
        read_query("tasks=detect&then=classify&topk=3", ("classify", "detect"))
    assert caught.value.hint.startswith("Did you mean 'top_k'?")
