"""Errors on the wire."""

from pydantic import Field

from foursight.schema.base import Wire


class Problem(Wire):
    """An error, as RFC 9457 "problem details" (application/problem+json)."""

    type: str = Field(description="A relative reference that identifies the kind of problem.")
    title: str
    status: int
    code: str = Field(description="Stable and machine-readable.")
    detail: str = Field(description="What was wrong.")
    hint: str = Field(description="What would be right.")


class Failure(Wire):
    """Takes the place of an answer if one of several images, or one of several tasks, failed."""

    error: Problem
