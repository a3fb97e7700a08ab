"""`foursight finetune`."""

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from foursight.models.training.loop import Epoch, Progress

SHOWN_PROBLEMS = 50
_TRAINING = "Training"


def finetune(
    data: Annotated[list[Path], typer.Argument(help="COCO listings; or folders of classes.", metavar="DATA...")],
    name: Annotated[str, typer.Option(help="The new model's name.")],
    task: Annotated[
        Literal["classify", "localize", "detect", "segment"],
        typer.Option(help="localize, detect, segment; else classify.", metavar="TASK", show_default=False),
    ] = "classify",
    profile: Annotated[
        Literal["tiny", "standard"],
        typer.Option(help="tiny or standard: whose backbone.", metavar="PROFILE", show_default=False),
    ] = "tiny",
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="auto, cpu or cuda: where to compute.", metavar="DEVICE", show_default=False),
    ] = "auto",
    models_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="FOURSIGHT_MODELS_DIR",
            show_envvar=False,
            help="Where to, or $FOURSIGHT_MODELS_DIR.",
            metavar="FOLDER",
        ),
    ] = None,
    pool: Annotated[
        Literal["avg", "max", "l2"] | None,
        typer.Option(help="classify: kind of pooling.", rich_help_panel=_TRAINING),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="classify: share of dropout.", rich_help_panel=_TRAINING)
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="classify: 1x1 channels.", rich_help_panel=_TRAINING)] = None,
    init: Annotated[
        Literal["pretrained", "random"] | None,
        typer.Option(help="Initial weights of the heads.", rich_help_panel=_TRAINING),
    ] = None,
    processes: Annotated[int | None, typer.Option(help="That train heads together.", rich_help_panel=_TRAINING)] = None,
    freeze: Annotated[str | None, typer.Option(help="all, backbone, stageN, none.", rich_help_panel=_TRAINING)] = None,
    epochs: Annotated[int | None, typer.Option(help="Times that all are seen.", rich_help_panel=_TRAINING)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", rich_help_panel=_TRAINING)] = None,
    batch: Annotated[int | None, typer.Option(help="Examples in a step.", rich_help_panel=_TRAINING)] = None,
    seed: Annotated[int | None, typer.Option(help="Of all chance.", rich_help_panel=_TRAINING)] = None,
    split: Annotated[
        Literal["content", "name"] | None, typer.Option(help="What parts a listing.", rich_help_panel=_TRAINING)
    ] = None,
    augment: Annotated[
        bool | None, typer.Option("--augment", help="Windows, mirror images, light.", rich_help_panel=_TRAINING)
    ] = None,
    cache: Annotated[bool | None, typer.Option(help="Keep features.", rich_help_panel=_TRAINING)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a broken run.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace one of this name.")] = False,
) -> None:
    """Train a model with labels of your own on a pretrained network.

    Ctrl-C ends the training and keeps the best epoch so far.
    """
    try:
        from foursight.models.errors import DataError, ModelError, OptionError  # noqa: PLC0415
        from foursight.models.finetuned import store  # noqa: PLC0415
        from foursight.models.training import checkpoints, jobs  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _end(f"needs packages of training ({error.name} is missing): pip install 'foursight[server,train]'")
    chosen = {"freeze": freeze, "pool": pool, "dropout": dropout, "hidden": hidden, "epochs": epochs, "lr": lr}
    chosen |= {"batch": batch, "seed": seed, "split": split, "augment": augment, "cache": cache}
    chosen |= {"init": init, "processes": processes}
    given = {option: value for option, value in chosen.items() if value is not None}
    try:
        folder = (models_dir or store.default_folder()) / store.check_name(name)
        work = checkpoints.prepare(folder, resume=resume, replace=replace)
        job = jobs.plan(task, data, given, profile, device)
        print(*job.messages, sep="\n")
        with _Display() as display:
            outcome = job.train(display.show, work)
        # What was learnt is written, however often somebody presses Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        extra = {"command": "foursight finetune " + shlex.join(sys.argv[2:]), "peak_memory_mib": _peak_mib()}
        job.write(folder, outcome, extra)
    except OptionError as error:
        _end(str(error).strip(), 2)
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
    checkpoints.clean_up(work, interrupted=outcome.interrupted)
    _say(folder, outcome, job.summarize(outcome))


def _say(folder: Path, outcome: Any, figures: str) -> None:
    if outcome.interrupted:
        print(f"Interrupted after {len(outcome.epochs)} epochs: the best of them is kept; --resume goes on from here.")
    print(
        f"{folder}: validation {figures} (epoch {outcome.best + 1}); "
        f"features {outcome.seconds['features']:.1f} s, training {outcome.seconds['training']:.1f} s, "
        f"peak memory {_peak_mib()} MiB.\n"
        f"Serve it: foursight serve; into a running server: foursight models load {folder.name}"
    )


def _peak_mib() -> int:
    """The most memory that a process of this training has held, in MiB (Linux counts it in KiB)."""
    import resource  # noqa: PLC0415

    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024


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
        validation = _figures(progress.epochs)
        figures = validation if progress.loss is None else f"loss {progress.loss:.3f}  {validation}"
        if progress.phase not in self._rows:
            self._rows[progress.phase] = self._bars.add_task(progress.phase, total=progress.total, figures="")
        self._bars.update(
            self._rows[progress.phase], completed=progress.done, total=progress.total, figures=figures  # type: ignore[arg-type]
        )  # fmt: skip
        if not self._bars.console.is_terminal and len(progress.epochs) > self._told:
            self._told = len(progress.epochs)
            print(f"epoch {self._told}: loss {progress.epochs[-1].loss:.3f}  {validation}".rstrip(), flush=True)


def _figures(epochs: "tuple[Epoch, ...]") -> str:
    known = [epoch.figure for epoch in epochs if epoch.figure is not None]
    return f"validation {known[-1]:.3f} (best {max(known):.3f})" if known else ""
