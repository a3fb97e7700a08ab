"""What can go wrong in `models`: each error has a stable code, says what was wrong, and says what would be right.

ModelError
├── ImageError      the bytes are no picture that can be used
├── OptionError     an option of the request does not fit the task
├── PrecisionError  networks cannot be computed as asked here
├── WeightsError    the weights of a profile are not to be had
├── StoreError      a fine-tuned model cannot be read, or does not fit
└── DataError       a set of photos cannot be trained on
"""


class ModelError(Exception):
    """Base of all errors here: a stable `code`, in `detail` what was wrong, and in `hint` what would be right."""

    def __init__(self, code: str, detail: str, hint: str) -> None:
        super().__init__(code, detail, hint)
        self.code = code
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.detail} {self.hint}"


class ImageError(ModelError):
    """Codes: empty_body, not_an_image, unsupported_image_type, truncated_image, too_many_pixels."""


class OptionError(ModelError):
    """Codes: unknown_parameter, invalid_parameter, unknown_class. `option` is the name of the option, if known."""

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
    """Codes: bad_data, with `problems`: one line for each thing that is wrong; no_data; checkpoint_mismatch."""

    def __init__(self, code: str, detail: str, hint: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(code, detail, hint)
        self.problems = problems
