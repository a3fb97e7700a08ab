"""HTTP responses: the format that the client accepts, bodies, and the headers that describe an answer."""

from collections.abc import Sequence

from starlette.responses import Response

from foursight.schema import Failure
from foursight.serving.cached_pipeline import CachedAnswer
from foursight.serving.encoding import Format
from foursight.serving.errors import MEDIA_TYPE, ApiError, problem

FORMATS: tuple[Format, ...] = ("application/json", "image/jpeg", "image/png")


def negotiate(accept: str, offered: Sequence[Format] = FORMATS) -> Format:
    """Return the offered format that an Accept header prefers (RFC 9110, section 12.5.1), the first one if several tie.

    Raises ApiError (not_acceptable).
    """
    best: tuple[float, Format] | None = None
    ranges = [_media_range(part) for part in accept.split(",") if part.strip()]
    for candidate in offered:
        # The most specific range that matches decides.
        quality = max(
            ((specific, q) for pattern, q in ranges if (specific := _specificity(pattern, candidate))), default=(0, 0.0)
        )[1]
        if not ranges:
            quality = 1.0
        if quality > 0 and (best is None or quality > best[0]):
            best = (quality, candidate)
    if best is None:
        raise ApiError(
            "not_acceptable",
            f"Accept: {accept} rules out every available format.",
            f"Available: {', '.join(offered)}.",
        )
    return best[1]


def json_response(results: Sequence[bytes]) -> Response:
    """Return one JSON result as the body, or several as {"results": [...]}."""
    body = results[0] if len(results) == 1 else b'{"results":[%b]}' % b",".join(results)
    return Response(body, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """Return the problem details of an error."""
    body = problem(error.code, error.detail, error.hint)
    return Response(body.model_dump_json(), error.status, error.headers, MEDIA_TYPE)


def failure(error: ApiError) -> Failure:
    """Return an error in place of one image's answer."""
    return Failure(error=problem(error.code, error.detail, error.hint))


def cache_status(answer: CachedAnswer | ApiError) -> str:
    """Return one image's member of the Cache-Status header (RFC 9211)."""
    if isinstance(answer, ApiError):
        return "foursight; fwd=miss"
    if answer.status == "miss":
        return "foursight; fwd=miss" + ("; stored" if answer.stored else "")
    return "foursight; hit" if answer.status == "hit" else "foursight; fwd=miss; collapsed"


def server_timing(answers: Sequence[CachedAnswer | ApiError], total_s: float) -> str:
    """Return the Server-Timing header (W3C), in milliseconds; of several images, the longest time of each step.

    Only `total` if nothing was computed.
    """
    steps = [f"total;dur={1000 * total_s:.1f}"]
    computed = [one.answer for one in answers if isinstance(one, CachedAnswer) and one.status == "miss"]
    if computed:
        slowest = {
            "decode": max(one.decode_s for one in computed),
            "queue": max(one.timing.queue_s for one in computed),
            "inference": max(one.timing.inference_s for one in computed),
        }
        steps = [f"{name};dur={1000 * seconds:.1f}" for name, seconds in slowest.items()] + steps
        steps.append(f'batch;desc="{max(one.timing.batch_size for one in computed)}"')
    return ", ".join(steps)


def _media_range(part: str) -> tuple[str, float]:
    pattern, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return pattern, float(quality)
    except ValueError:
        return pattern, 0.0


def _specificity(pattern: str, candidate: str) -> int:
    if pattern == candidate:
        return 3
    if pattern == candidate.split("/", maxsplit=1)[0] + "/*":
        return 2
    return 1 if pattern == "*/*" else 0
