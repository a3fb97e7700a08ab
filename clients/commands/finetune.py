"""`foursight finetune`."""

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from foursight.models.training.finetune import Epoch, Outcome, Progress

SHOWN_PROBLEMS = 50
_HEAD, _TRAINING = "Head", "Training"


def finetune(
    data: Annotated[Path, typer.Argument(help="A folder for each class in it, or a COCO listing.")],
    name: Annotated[str, typer.Option(help="The new model's name.")],
    task: Annotated[Literal["classify"], typer.Option(help="What it is for.")] = "classify",
    profile: Annotated[Literal["tiny", "standard"], typer.Option(help="Whose backbone.")] = "tiny",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    models_dir: Annotated[
        Path | None,
        typer.Option(envvar="FOURSIGHT_MODELS_DIR", show_envvar=False, help="Where to, or $FOURSIGHT_MODELS_DIR."),
    ] = None,
    pool: Annotated[
        Literal["avg", "max", "l2"], typer.Option(help="Mean, maximum, or L2 mean.", rich_help_panel=_HEAD)
    ] = "avg",
    dropout: Annotated[float, typer.Option(help="Share of features dropped.", rich_help_panel=_HEAD)] = 0.2,
    hidden: Annotated[int, typer.Option(help="Channels of a 1x1 convolution.", rich_help_panel=_HEAD)] = 0,
    freeze: Annotated[str, typer.Option(help="all, stage1 .., or none.", rich_help_panel=_TRAINING)] = "all",
    epochs: Annotated[int, typer.Option(help="Times that all are seen.", rich_help_panel=_TRAINING)] = 30,
    lr: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=_TRAINING)] = 2e-3,
    batch: Annotated[int, typer.Option(help="Examples in a step.", rich_help_panel=_TRAINING)] = 32,
    seed: Annotated[int, typer.Option(help="Of all chance.", rich_help_panel=_TRAINING)] = 0,
    augment: Annotated[
        bool, typer.Option("--augment", help="Windows, mirror images, light.", rich_help_panel=_TRAINING)
    ] = False,
    cache: Annotated[bool, typer.Option(help="Keep features.", rich_help_panel=_TRAINING)] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a broken run.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a model of this name.")] = False,
) -> None:
    """Train a model with labels of your own on a pretrained backbone.

    Ctrl-C ends the training and keeps the best epoch so far.
    """
    try:
        from pydantic import ValidationError  # noqa: PLC0415

        from foursight.models import backbone, devices, store  # noqa: PLC0415
        from foursight.models.errors import DataError, ModelError  # noqa: PLC0415
        from foursight.models.training import dataset, report  # noqa: PLC0415
        from foursight.models.training import finetune as training  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _end(f"needs packages of training ({error.name} is missing): pip install 'foursight[server,train]'")
    head = {"pool": pool, "dropout": dropout, "hidden": hidden}
    values = {"freeze": freeze, "head": head, "epochs": epochs, "lr": lr, "batch": batch, "seed": seed}
    try:
        options = training.Options.model_validate(values | {"augment": augment, "cache": cache})
    except ValidationError as error:
        first = error.errors()[0]
        _end(f"--{first['loc'][-1]}: {first['msg']}", 2)
    try:
        folder = (models_dir or store.default_folder()) / store.check_name(name)
        work = training.prepare_work(folder, resume=resume, replace=replace)
        examples = dataset.read(data, seed)
        print(
            f"{len(examples.labels)} classes, {len(examples.training)} examples to train on and "
            f"{len(examples.validation)} to validate on (split: {examples.split}).",
            *(f"note: {note}" for note in examples.notes),
            sep="\n",
        )
        base = backbone.load(profile)
        with _Display() as display:
            outcome = training.finetune(examples, base, options, devices.resolve(device), display.show, work)
        # What was learnt is written, however often somebody presses Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        extra = {"command": "foursight finetune " + shlex.join(sys.argv[2:]), "peak_memory_mib": _peak_mib()}
        report.write(folder, examples, base, options, outcome, extra)
    except DataError as error:
        for line in error.problems[:SHOWN_PROBLEMS]:
            print(f"  {line}", file=sys.stderr)
        if len(error.problems) > SHOWN_PROBLEMS:
            print(f"  ... and {len(error.problems) - SHOWN_PROBLEMS} more", file=sys.stderr)
        _end(str(error))
    except (ModelError, ValueError, OSError) as error:
        _end(str(error))
    except KeyboardInterrupt:
        _end("Broken off before the first epoch was done: no model was written.", 130)
    training.clean_up(work, outcome)
    _say(folder, outcome)


def _say(folder: Path, outcome: "Outcome") -> None:
    best = outcome.epochs[outcome.best]
    if outcome.interrupted:
        print(f"Interrupted after {len(outcome.epochs)} epochs: the best of them is kept; --resume goes on from here.")
    print(
        f"{folder}: validation top-1 {best.accuracy:.3f} (epoch {outcome.best + 1}); "
        f"features {outcome.seconds['features']:.1f} s, training {outcome.seconds['training']:.1f} s, "
        f"peak memory {_peak_mib()} MiB.\n"
        f"Serve it: foursight serve; into a running server: foursight models load {folder.name}"
    )


def _peak_mib() -> int:
    """The most memory that this process has held, in MiB (Linux counts it in KiB)."""
    import resource  # noqa: PLC0415

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _end(message: str, status: int = 1) -> NoReturn:
    print(f"foursight finetune: {message}", file=sys.stderr)
    raise typer.Exit(status)


class _Display:
    """Progress bars on a terminal; elsewhere a line for each epoch."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._rows: dict[str, int] = {}
        self._told = 0

    def __enter__(self) -> "_Display":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, progress: "Progress") -> None:
        """Move the bar of a phase."""
        figures = "" if progress.loss is None else f"loss {progress.loss:.3f}  {_figures(progress.epochs)}"
        if progress.phase not in self._rows:
            self._rows[progress.phase] = self._bars.add_task(progress.phase, total=progress.total, figures="")
        self._bars.update(
            self._rows[progress.phase], completed=progress.done, total=progress.total, figures=figures  # type: ignore[arg-type]
        )  # fmt: skip
        if not self._bars.console.is_terminal and len(progress.epochs) > self._told:
            self._told = len(progress.epochs)
            print(f"epoch {self._told}: {figures}", flush=True)


def _figures(epochs: "tuple[Epoch, ...]") -> str:
    if not epochs:
        return ""
    best = max(epoch.accuracy for epoch in epochs)
    return f"validation {epochs[-1].accuracy:.3f} (best {best:.3f})"
