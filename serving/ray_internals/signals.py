"""Keeping the server's handler of SIGTERM while Ray starts."""


def keep_handlers() -> None:
    """Stop ray.init from replacing the handler of SIGTERM by one that raises SystemExit. Call it before ray.init."""
    from ray._private import utils  # noqa: PLC0415

    utils.set_sigterm_handler = lambda handler: None
