"""The request that Serve has begun in this context."""


def request_id() -> str:
    """Return the ID that is in the header X-Request-ID of the response; empty outside of requests."""
    # Serve reads its variables at import.
    from ray.serve.context import _get_serve_request_context  # noqa: PLC0415

    return str(_get_serve_request_context().request_id)
