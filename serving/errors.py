"""The errors of the HTTP API, as RFC 9457 problem details: one table of codes, and the exception to raise."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from foursight.models.errors import ModelError
from foursight.schema import Problem
from foursight.serving.logs import logger

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class ErrorCode:
    """The HTTP status of a code, and when it occurs."""

    status: int
    when: str


CODES = {
    "bad_request": ErrorCode(
        400,
        "The request did not arrive completely, or its X-Request-ID is not printable ASCII of up to 200 characters.",
    ),
    "empty_body": ErrorCode(400, "The request body is empty."),
    "unknown_parameter": ErrorCode(400, "The task has no such query parameter."),
    "invalid_parameter": ErrorCode(400, "The value of a query parameter is not valid."),
    "unknown_class": ErrorCode(400, "`classes` names a label that the model does not have."),
    "invalid_multipart": ErrorCode(400, "The multipart body is malformed, has no file, or has a field that is none."),
    "invalid_json": ErrorCode(400, "The JSON body is malformed, or does not hold an image."),
    "invalid_base64": ErrorCode(400, "An image that is sent as text is not valid base64."),
    "too_many_images": ErrorCode(400, "The upload has more images than one request may have."),
    "invalid_timeout": ErrorCode(400, "The header Request-Timeout is not a positive number of seconds."),
    "invalid_model_name": ErrorCode(400, "The name is not valid for a model."),
    "missing_key": ErrorCode(401, "The server needs an API key, and the request has none."),
    "invalid_key": ErrorCode(401, "The API key is unknown or revoked, or Authorization is not `Bearer KEY`."),
    "insufficient_scope": ErrorCode(403, "The API key lacks the scope that the request needs."),
    "cross_site": ErrorCode(403, "A web page of another site sent the request."),
    "not_found": ErrorCode(404, "The path does not exist."),
    "unknown_model": ErrorCode(404, "No task or model of that name is served."),
    "method_not_allowed": ErrorCode(405, "The path does not support this method."),
    "not_acceptable": ErrorCode(406, "The Accept header rules out every available format."),
    "upload_timeout": ErrorCode(408, "The upload took too long."),
    "upload_too_slow": ErrorCode(408, "The upload arrives more slowly than the limit."),
    "builtin_model": ErrorCode(409, "A built-in model cannot be replaced or removed."),
    "model_exists": ErrorCode(409, "A model of that name exists already."),
    "model_corrupt": ErrorCode(409, "A model's files are incomplete or damaged."),
    "model_list_corrupt": ErrorCode(409, "The server's list of models cannot be read."),
    "model_mismatch": ErrorCode(409, "The model was made for another task or another backbone."),
    "checkpoint_mismatch": ErrorCode(409, "A training checkpoint belongs to another run."),
    "body_too_large": ErrorCode(413, "The upload is larger than the limit."),
    "too_many_pixels": ErrorCode(413, "The image has more pixels than the limit."),
    "side_too_long": ErrorCode(413, "A side of the image is longer than the limit."),
    "too_many_scans": ErrorCode(413, "The progressive JPEG has more scans than the limit."),
    "too_many_tiles": ErrorCode(413, "The TIFF has more strips or tiles than the limit."),
    "not_an_image": ErrorCode(415, "The body is not an image."),
    "unsupported_image_type": ErrorCode(415, "The image format is not supported."),
    "unsupported_media_type": ErrorCode(415, "The Content-Type is not an image type, or the body is compressed."),
    "unknown_host": ErrorCode(421, "The server does not answer to the name in the header Host."),
    "truncated_image": ErrorCode(422, "The image is truncated or damaged."),
    "decode_timeout": ErrorCode(422, "Decoding the image took longer than the limit."),
    "bad_data": ErrorCode(422, "A data set cannot be trained on."),
    "no_data": ErrorCode(422, "A data set has no images to train on."),
    "rate_limited": ErrorCode(429, "The API key has sent more requests per second than it may."),
    "internal_error": ErrorCode(500, "The server failed. Its log has the details, under the request ID."),
    "precision_unavailable": ErrorCode(500, "The machine cannot compute in the configured precision."),
    "weights_corrupt": ErrorCode(500, "A weights file does not match its checksum."),
    "out_of_memory": ErrorCode(503, "The server has too little memory to decode the image now."),
    "overloaded": ErrorCode(503, "The queue is full. Retry after the delay in Retry-After."),
    "too_many_uploads": ErrorCode(503, "The uploads in flight hold as many bytes as the limit allows."),
    "stopping": ErrorCode(503, "The server is stopping. Retry after the delay in Retry-After."),
    "unavailable": ErrorCode(503, "The task's worker is starting or restarting. Retry after the delay in Retry-After."),
    "weights_unavailable": ErrorCode(503, "A weights file could not be downloaded."),
    "deadline_exceeded": ErrorCode(504, "The answer was not ready within Request-Timeout, or the server's limit."),
}
# Hints for errors of foursight.models that are specific to the HTTP API.
_HTTP_HINTS = {
    "unknown_class": "GET /v1/models lists all labels.",
    "unknown_model": "GET /v1/models lists all models.",
}


class ApiError(Exception):
    """A request that is answered with an error. `code` is one of CODES."""

    def __init__(self, code: str, detail: str, hint: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code, detail, hint)
        self.code = code
        self.detail = detail
        self.hint = hint
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return CODES[self.code].status


def as_api_error(error: Exception) -> ApiError:
    """Return the ApiError that answers an exception. Unexpected exceptions are logged, never sent to the client."""
    if isinstance(error, ApiError | ModelError) and error.code in CODES:
        if isinstance(error, ApiError):
            return error
        hints = [error.hint, "" if "GET /v1/models" in error.hint else _HTTP_HINTS.get(error.code, "")]
        return ApiError(error.code, error.detail, " ".join(filter(None, hints)))
    logger.error("unexpected error while answering a request", exc_info=error)
    return ApiError(
        "internal_error", "The server failed to answer this request.", "Try again, or report the request ID."
    )


def unavailable(task: str) -> ApiError:
    """Return the error for a worker that does not answer."""
    return ApiError(
        "unavailable",
        f"The worker of {task!r} does not answer.",
        "It is being restarted. Retry in 2 seconds.",
        {"Retry-After": "2"},
    )


def method_not_allowed(method: str, path: str, allowed: str) -> ApiError:
    """Return the error for a method that a path does not support; `allowed` lists those that it does."""
    return ApiError("method_not_allowed", f"{path} does not support {method}.", f"Use {allowed}.", {"Allow": allowed})


def problem(code: str, detail: str, hint: str) -> Problem:
    """Return the problem details of an error."""
    status = CODES[code].status
    title = HTTPStatus(status).phrase
    return Problem(type=f"/docs#{code}", title=title, status=status, code=code, detail=detail, hint=hint)
