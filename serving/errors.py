"""Everything that the server refuses, as RFC 9457 problem details: one table of codes, one type to raise.

code                       status   when
empty_body                 400      no bytes arrived
unknown_parameter          400      a query parameter that the task does not have
invalid_parameter          400      a query parameter with a value that it cannot have
unknown_class              400      `classes` names something the model does not know
invalid_multipart          400      a multipart body that is broken, or without a field `image`
too_many_images            400      more than 32 images in one upload
invalid_model_name         400      a name that no model can have
not_found                  404      no such path
unknown_model              404      no task or model of that name is served
method_not_allowed         405      the path takes another method
not_acceptable             406      the Accept header leaves no format that we have
upload_timeout             408      the upload took too long
builtin_model              409      a task's own model cannot be replaced or dropped
model_corrupt              409      a model's files are not whole, or not those that belong together
model_mismatch             409      a model that is for another task or another backbone
body_too_large             413      more bytes than the limit
too_many_pixels            413      more pixels than the limit
not_an_image               415      bytes that are no picture
unsupported_image_type     415      a picture, but of a kind that we do not read
unsupported_media_type     415      a Content-Type that cannot be a photo
truncated_image            422      a picture that ends early or is damaged
internal_error             500      our fault; the log has the request id
overloaded                 503      the queue is full: Retry-After says when to come back
unavailable                503      the task's worker is starting, or restarting
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus

from foursight.models.errors import ModelError
from foursight.schema import Problem

logger = logging.getLogger("ray.serve")

STATUS = {
    "empty_body": 400,
    "unknown_parameter": 400,
    "invalid_parameter": 400,
    "unknown_class": 400,
    "invalid_multipart": 400,
    "too_many_images": 400,
    "invalid_model_name": 400,
    "not_found": 404,
    "unknown_model": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "upload_timeout": 408,
    "builtin_model": 409,
    "model_corrupt": 409,
    "model_mismatch": 409,
    "body_too_large": 413,
    "too_many_pixels": 413,
    "not_an_image": 415,
    "unsupported_image_type": 415,
    "unsupported_media_type": 415,
    "truncated_image": 422,
    "internal_error": 500,
    "overloaded": 503,
    "unavailable": 503,
}
MEDIA_TYPE = "application/problem+json"


class ApiError(Exception):
    """A request that is answered with an error. `code` is one of STATUS."""

    def __init__(self, code: str, detail: str, hint: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code, detail, hint)
        self.code = code
        self.detail = detail
        self.hint = hint
        self.headers = dict(headers or {})


def problem(code: str, detail: str, hint: str) -> Problem:
    """The problem details for a code."""
    status = STATUS[code]
    title = HTTPStatus(status).phrase
    return Problem(type=f"/docs#{code}", title=title, status=status, code=code, detail=detail, hint=hint)


def as_api_error(error: Exception) -> ApiError:
    """The refusal that answers an exception; what nobody foresaw goes to the log and not to the client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ModelError):
        return ApiError(error.code, error.detail, error.hint)
    logger.error("unforeseen error while answering a request", exc_info=error)
    return ApiError(
        "internal_error", "The server failed on this request.", "It is logged; try again, or report the id."
    )
