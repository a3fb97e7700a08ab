"""`foursight finetune`: train a model for the user's own labels."""

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from foursight.clients.cli.command import INTERRUPTED, WRONG_USAGE, Argument, Command, CommandError, Option
from foursight.clients.cli.extras import required
from foursight.clients.cli.fields import option_name
from foursight.clients.cli.options import PATH, Number, models_dir, profile, task
from foursight.clients.cli.problems import data_error

if TYPE_CHECKING:
    from foursight.models.results import Profile
    from foursight.models.training import loop


def _training(name: str, type: click.ParamType[Any], metavar: str, help: str) -> click.Option:
    return Option(name, type=type, metavar=metavar, help=help, section="Training")


def _choice(name: str, choices: str, help: str, **settings: Any) -> click.Option:
    return Option(name, type=click.Choice(choices.split("|")), metavar=choices, help=help, **settings)


@click.command(
    cls=Command,
    params=[
        Argument(
            "data", nargs=-1, required=True, type=PATH, metavar="DATA...",
            help="Data sets: COCO, YOLO, Pascal VOC, Hugging Face, or a folder per class.",
        ),
        Option("--name", required=True, metavar="NAME", help="Name of the new model."),
        task("classify"),
        profile(),
        _choice("--device", "auto|cpu|cuda", "Where to train.", default="auto"),
        models_dir(),
        Option("--resume", is_flag=True, help="Resume an interrupted run."),
        Option("--replace", is_flag=True, help="Replace the model of this name."),
        _training("--freeze", click.STRING, "STAGES", "What stays frozen: all, backbone, stageN or none."),
        _training("--epochs", Number(int, 1), "N", "Number of epochs."),
        _training("--lr", Number(float), "N", "Highest learning rate."),
        _training("--batch", Number(int, 1), "N", "Batch size."),
        _training("--seed", Number(int, 0), "N", "Random seed."),
        _choice("--split", "content|name", "Choose validation images by content or by file name.", section="Training"),
        Option("--augment", is_flag=True, default=None, help="Vary crop, orientation and colour.", section="Training"),
        Option("--cache/--no-cache", default=None, help="Keep the features of frozen layers.", section="Training"),
        _choice("--pool", "avg|max|l2", "classify: pooling of the new head.", section="Training"),
        _training("--dropout", Number(float), "N", "classify: dropout of the new head, 0 to 1."),
        _training("--hidden", Number(int, 0), "N", "classify: channels of an extra convolution."),
    ],
    example="fruit/ --name fruit --pool max --epochs 10",
)  # fmt: skip
def finetune(
    data: tuple[Path, ...],
    name: str,
    task: Any,
    profile: "Profile",
    device: str,
    models_dir: Path | None,
    resume: bool,
    replace: bool,
    **training: Any,
) -> int:
    """Train a model for your own labels, on top of a pretrained network.

    Ctrl-C stops the training and keeps the best epoch so far.
    """
    with required("server,train"):
        from foursight.models.errors import DataError, ModelError, OptionError  # noqa: PLC0415
        from foursight.models.finetuned import store  # noqa: PLC0415
        from foursight.models.training import checkpoints, jobs  # noqa: PLC0415
    given = {option: value for option, value in training.items() if value is not None}
    try:
        folder = (models_dir or store.default_folder()) / store.check_name(name)
        work = checkpoints.prepare(folder, resume=resume, replace=replace)
        job = jobs.plan(task, data, given, profile, device)
        print(*job.messages, sep="\n")
        with _Display() as display:
            outcome = job.train(display.show, work)
        extra = {"command": "foursight finetune " + shlex.join(sys.argv[2:]), "peak_memory_mib": _peak_mib()}
        # Another Ctrl-C must not stop the model from being written.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            job.write(folder, outcome, extra)
        finally:
            signal.signal(signal.SIGINT, handler)
    except OptionError as error:
        option = getattr(error, "option", None)
        raise CommandError(f"{option_name(option)}: {error}" if option else str(error), WRONG_USAGE) from None
    except DataError as error:
        raise data_error(error) from None
    except (ModelError, ValueError, OSError) as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:
        raise CommandError("Interrupted before the first epoch was done. No model was written.", INTERRUPTED) from None
    checkpoints.clean_up(work, interrupted=outcome.interrupted)
    _summarize(folder, outcome, job.summarize(outcome))
    return 0


def _summarize(folder: Path, outcome: Any, figures: str) -> None:
    if outcome.interrupted:
        print(f"Interrupted after {len(outcome.epochs)} epochs. The best one is kept; --resume continues from here.")
    print(
        f"{folder}: validation {figures} (epoch {outcome.best + 1}); "
        f"features {outcome.seconds['features']:.1f} s, training {outcome.seconds['training']:.1f} s, "
        f"peak memory {_peak_mib()} MiB.\n"
        f"Serve it: foursight serve. Load it into a running server: foursight models load {folder.name}"
    )


def _peak_mib() -> int:
    """Return the peak memory of the training's processes in MiB. Linux counts it in KiB."""
    import resource  # noqa: PLC0415

    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024


class _Display:
    """Progress bars on a terminal; elsewhere one line per epoch."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._phases: dict[str, TaskID] = {}
        self._printed = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, progress: "loop.Progress") -> None:
        """Move the bar of a phase."""
        validation = _figures(progress.epochs)
        figures = validation if progress.loss is None else f"loss {progress.loss:.3f}  {validation}"
        if progress.phase not in self._phases:
            self._phases[progress.phase] = self._bars.add_task(progress.phase, total=progress.total, figures="")
        phase = self._phases[progress.phase]
        self._bars.update(phase, completed=progress.done, total=progress.total, figures=figures)
        if not self._bars.console.is_terminal and len(progress.epochs) > self._printed:
            self._printed = len(progress.epochs)
            loss = progress.epochs[-1].loss
            print(f"epoch {self._printed}: loss {loss:.3f}  {validation}".rstrip(), flush=True)


def _figures(epochs: "tuple[loop.Epoch, ...]") -> str:
    known = [epoch.figure for epoch in epochs if epoch.figure is not None]
    return f"validation {known[-1]:.3f} (best {max(known):.3f})" if known else ""
