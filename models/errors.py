"""Errors of `models`: each has a stable code, says what was wrong, and says what would be right.

ModelError
├── ImageError      the bytes are not an image that can be used
├── OptionError     an option of the request does not fit the task
├── PrecisionError  this machine cannot compute in the precision asked for
├── WeightsError    the weights of a profile are not available
├── StoreError      a fine-tuned model cannot be read, or does not fit
└── DataError       a data set cannot be trained on
"""


class ModelError(Exception):
    """Base class: `code` is stable, `detail` says what was wrong, `hint` says what would be right."""

    def __init__(self, code: str, detail: str, hint: str) -> None:
        super().__init__(code, detail, hint)
        self.code = code
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.detail} {self.hint}"


class ImageError(ModelError):
    """Codes: empty_body, not_an_image, unsupported_image_type, truncated_image, too_many_pixels, side_too_long,
    too_many_scans, too_many_tiles, decode_timeout, out_of_memory.
    """


class OptionError(ModelError):
    """Codes: unknown_model, unknown_parameter, invalid_parameter, unknown_class. `option`: its name, if known."""

    def __init__(self, code: str, detail: str, hint: str, option: str | None = None) -> None:
        super().__init__(code, detail, hint)
        self.option = option


class PrecisionError(ModelError):
    """Code: precision_unavailable."""


class WeightsError(ModelError):
    """Codes: weights_unavailable, weights_corrupt."""


class StoreError(ModelError):
    """Codes: invalid_model_name, unknown_model, model_exists, model_corrupt, model_mismatch."""


class DataError(ModelError):
    """Codes: bad_data, no_data, checkpoint_mismatch. `problems` has one line for each fault of the data."""

    def __init__(self, code: str, detail: str, hint: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(code, detail, hint)
        self.problems = problems
