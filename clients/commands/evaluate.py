"""`foursight evaluate`: how good a task is on photos whose answers are known."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from foursight.wire import Answer, Prediction, Rle

if TYPE_CHECKING:
    from PIL import Image

    from foursight.models.training.measure import Measured, Tally

# Below this nothing leaves the network; AP is the area under all thresholds.
LOWEST_SCORE = 0.05
CONCURRENCY = 4
TIMEOUT_S = 120


class EvaluateError(Exception):
    """The data or the server do not allow an evaluation; the message is for a person, `status` for the shell."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Asker:
    """Whom to ask: the labels that it knows, the model's name, and an answer for the bytes of a photo."""

    model: str
    labels: tuple[str, ...]
    ask: Callable[[bytes], Answer]
    concurrency: int


@dataclass(frozen=True)
class Bad:
    """A photo that was answered badly: its file, what to say of it, and what was answered and what is true."""

    path: Path
    caption: str
    answered: Sequence[Prediction]
    true: Sequence[Prediction]


@dataclass(frozen=True)
class Report:
    """An evaluation: what `--json` prints, the tables of it for people, and the photos from the worst on."""

    content: dict[str, Any]
    tables: list[Table]
    worst: list[Bad]


def evaluate(
    data: Annotated[Path, typer.Argument(help="A COCO JSON file, or a folder with one for each class.")],
    task: Annotated[
        Literal["classify", "detect", "segment"] | None,
        typer.Option(help="By default detect, or classify."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="The photos, if not beside the file.")] = None,
    classes: Annotated[str | None, typer.Option(help="These labels only, comma-separated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many photos, the first.")] = None,
    url: Annotated[str | None, typer.Option(help="Ask this server; else a model here.")] = None,
    profile: Annotated[Literal["tiny", "standard"], typer.Option(help="Weights of a model here.")] = "tiny",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and no table.")] = False,
    worst: Annotated[int, typer.Option(min=0, max=100, help="Worst photos to name.")] = 16,
    sheet: Annotated[Path | None, typer.Option(help="Draw the worst on one picture.")] = None,
) -> None:
    """Measure a task on photos whose answers are known.

    Boxes and masks by pycocotools (AP, AP50, AP75, AR, by size and label), labels by top-1 and top-5 accuracy.
    """
    try:
        chosen = task or ("classify" if data.is_dir() else "detect")
        if (chosen == "classify") != data.is_dir():
            raise EvaluateError(f"{chosen} is measured on {'a folder' if chosen == 'classify' else 'a COCO file'}.")
        asker = _server(url, chosen) if url else _local(chosen, profile)
        asked = [name.strip() for name in classes.split(",")] if classes else None
        if chosen == "classify":
            report = _classes(data, asker, asked, limit, worst)
        else:
            report = _objects(data, images, asker, chosen, asked, limit, worst)
    except EvaluateError as error:
        print(f"foursight evaluate: {error}", file=sys.stderr)
        raise typer.Exit(error.status) from None
    except ModuleNotFoundError as error:
        hint = "pip install 'foursight[server,train]'"
        print(f"foursight evaluate needs {error.name}, which is not installed: {hint}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps({"task": chosen, "model": asker.model} | report.content, indent=2))
    else:
        console = Console()
        for table in report.tables:
            console.print(table)
    if sheet:
        from foursight.sheet import contact_sheet  # noqa: PLC0415

        contact_sheet([(_tile(bad), bad.caption) for bad in report.worst]).save(sheet)
    failed = report.content["failed"]
    for failure in failed:
        print(f"no answer: {failure['file']}: {failure['error']}", file=sys.stderr)
    raise typer.Exit(1 if failed else 0)


def _local(task: str, profile: Literal["tiny", "standard"]) -> Asker:
    from foursight import models  # noqa: PLC0415
    from foursight.serving import answers  # noqa: PLC0415

    try:
        loaded = models.load(task, profile)
    except models.WeightsError as error:
        raise EvaluateError(str(error)) from None

    def ask(body: bytes) -> Answer:
        image = models.decode(body)
        found = models.run(loaded, image, **_options(task))
        return answers.to_answer(loaded.card.name, image.size, found, "rle")

    return Asker(loaded.card.name, loaded.card.labels, ask, 1)


def _server(url: str, task: str) -> Asker:
    from foursight.client import Client  # noqa: PLC0415
    from foursight.commands.server import reach  # noqa: PLC0415

    card = next((card for card in reach(url, None) if card.task == task), None)
    if card is None:
        raise EvaluateError(f"The server at {url} does not serve {task}.")

    method = getattr(Client(url, timeout=TIMEOUT_S), task)

    def ask(body: bytes) -> Answer:
        result = method(body, **_options(task))
        found = [prediction.to_wire() for prediction in result.predictions]
        return Answer(model=result.model, image=result.image, predictions=found)

    return Asker(card.name, tuple(card.labels), ask, CONCURRENCY)


def _options(task: str) -> dict[str, Any]:
    return {"top_k": 5} if task == "classify" else {"score_threshold": LOWEST_SCORE, "max_detections": 100}


def _ask_all(asker: Asker, paths: Sequence[Path]) -> Iterator[tuple[int, Answer | str]]:
    """The answer for each photo, or why there is none, with the photo's index; a terminal shows how far it is."""

    def ask(path: Path) -> Answer | str:
        try:
            return asker.ask(path.read_bytes())
        except Exception as error:
            # One photo that is missing or damaged is told at the end; the rest are measured.
            return str(error) or type(error).__name__

    progress = Console(stderr=True)
    with ThreadPoolExecutor(asker.concurrency) as pool:
        found = pool.map(ask, paths)
        yield from enumerate(
            track(found, "Asking", total=len(paths), console=progress, transient=True, disable=not progress.is_terminal)
        )


def _classes(folder: Path, asker: Asker, asked: list[str] | None, limit: int | None, worst: int) -> Report:
    from foursight.commands.sources import SUFFIXES  # noqa: PLC0415
    from foursight.models.training.measure import accuracy  # noqa: PLC0415

    names = sorted(one.name for one in folder.iterdir() if one.is_dir())
    names = [name for name in names if asked is None or name in asked]
    photos = [
        (path, name) for name in names for path in sorted((folder / name).iterdir()) if path.suffix.lower() in SUFFIXES
    ][:limit]
    if not photos:
        raise EvaluateError(f"{folder} has no folder with photos in it: DATA/<label>/photo.jpg is expected.")
    _require_labels(names, asker.labels)
    truth: list[str] = []
    ranked: list[list[str]] = []
    rows: list[tuple[float, Bad]] = []
    failed = []
    for index, answer in _ask_all(asker, [path for path, _ in photos]):
        path, name = photos[index]
        if isinstance(answer, str):
            failed.append({"file": str(path), "error": answer})
            continue
        best = [name if _is(name, one) else one.label for one in answer.predictions]
        truth.append(name)
        ranked.append(best)
        if best[:1] != [name]:
            # The surer of a wrong label, the worse.
            first = answer.predictions[0]
            bad = Bad(path, f"{name}: said {first.label}", answer.predictions, ())
            rows.append((-first.score, bad))
    overall, classes = accuracy(truth, ranked)
    worst_first = [bad for _, bad in sorted(rows, key=lambda row: row[0])][:worst]
    tables = [
        _table(f"{asker.model} on {len(truth)} photos", ["top-1", "top-5"], [["", overall["top1"], overall["top5"]]]),
        _table(
            "By label",
            ["photos", "top-1", "top-5"],
            [[name, int(row["photos"]), row["top1"], row["top5"]] for name, row in classes.items()],
        ),
    ]
    content = {
        "photos": len(truth),
        "overall": overall,
        "classes": classes,
        "worst": [{"file": str(bad.path), "what": bad.caption} for bad in worst_first],
        "failed": failed,
    }
    return Report(content, tables, worst_first)


def _is(name: str, prediction: Prediction) -> bool:
    return name == prediction.wnid or _plain(name) == _plain(prediction.label)


def _plain(label: str) -> str:
    return label.replace("_", " ").casefold()


def _require_labels(names: Iterable[str], labels: tuple[str, ...]) -> None:
    known = {_plain(label) for label in labels}
    for name in names:
        is_wnid = name[:1] == "n" and len(name) == 9 and name[1:].isdecimal()
        if _plain(name) not in known and not is_wnid:
            close = ", ".join(get_close_matches(_plain(name), known, n=3, cutoff=0.5))
            raise EvaluateError(f"The model has no label {name!r}.{f' Close to it: {close}.' if close else ''}")


def _objects(
    file: Path, images: Path | None, asker: Asker, task: str, asked: list[str] | None, limit: int | None, worst: int
) -> Report:
    from foursight.models.training.measure import measure  # noqa: PLC0415

    listing = _read_coco(file)
    folder = images or (file.parent / "images" if (file.parent / "images").is_dir() else file.parent)
    photos = listing["images"][:limit]
    ids = {_plain(category["name"]): category["id"] for category in listing["categories"]}
    labels = {category["id"]: category["name"] for category in listing["categories"]}
    unknown = [name for name in asked or () if _plain(name) not in ids]
    if unknown:
        raise EvaluateError(f"The data has no category {unknown[0]!r}. There are: {', '.join(labels.values())}.")
    chosen = [ids[_plain(name)] for name in asked] if asked else list(labels)
    answers: dict[int, Answer] = {}
    failed = []
    for index, answer in _ask_all(asker, [folder / photo["file_name"] for photo in photos]):
        if isinstance(answer, str):
            failed.append({"file": str(folder / photos[index]["file_name"]), "error": answer})
        else:
            answers[photos[index]["id"]] = answer
    if not answers:
        raise EvaluateError(f"No photo was answered. The first: {failed[0]['file']}: {failed[0]['error']}", 1)
    results = [result for number, answer in answers.items() for result in _results(number, answer, ids)]
    kinds: dict[str, Literal["bbox", "segm"]] = {"box": "bbox"}
    if task == "segment":
        kinds["mask"] = "segm"
    figures = {name: measure(file, answers, results, kind, chosen) for name, kind in kinds.items()}
    never = sorted(
        labels[number] for number in figures["box"].classes if _plain(labels[number]) not in map(_plain, asker.labels)
    )
    by_id = {photo["id"]: photo for photo in photos}
    worst_first = [
        _bad(tally, folder / by_id[tally.image_id]["file_name"], answers[tally.image_id], listing, labels, ids, chosen)
        for tally in _order(figures["box"].photos)[:worst]
    ]
    content = {
        "photos": len(answers),
        "overall": {name: measured.overall for name, measured in figures.items()},
        "classes": {
            labels[number]: {name: measured.classes[number] for name, measured in figures.items()}
            for number in figures["box"].classes
        },
        "not_a_label_of_the_model": never,
        "worst": [{"file": str(bad.path), "what": bad.caption} for bad in worst_first],
        "failed": failed,
    }
    return Report(content, _tables(asker, len(answers), figures, labels, never), worst_first)


def _read_coco(file: Path) -> dict[str, Any]:
    try:
        listing: dict[str, Any] = json.loads(file.read_text())
        for part in ("images", "annotations", "categories"):
            if not isinstance(listing[part], list):
                raise TypeError(part)
    except OSError as error:
        raise EvaluateError(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EvaluateError(f"{file} is no COCO JSON: images, annotations and categories are expected.") from None
    if not listing["images"]:
        raise EvaluateError(f"{file} lists no images.")
    return listing


def _results(image_id: int, answer: Answer, ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    """An answer in COCO's results format; labels that the data does not have are no part of the measure."""
    for one in answer.predictions:
        if one.box is None or _plain(one.label) not in ids:
            continue
        left, top, right, bottom = one.box
        result: dict[str, Any] = {
            "image_id": image_id,
            "category_id": ids[_plain(one.label)],
            "bbox": [left, top, right - left, bottom - top],
            "score": one.score,
        }
        if isinstance(one.mask, Rle):
            result["segmentation"] = {"size": list(one.mask.size), "counts": one.mask.counts}
        yield result


def _order(tallies: Iterable["Tally"]) -> list["Tally"]:
    """Photos with an error, from the lowest F1 on; of equal ones those with more errors first."""
    wrong = [tally for tally in tallies if tally.missed + tally.wrong]
    return sorted(wrong, key=lambda tally: (tally.f1, -(tally.missed + tally.wrong)))


def _bad(
    tally: "Tally",
    path: Path,
    answer: Answer,
    listing: dict[str, Any],
    labels: dict[int, str],
    ids: dict[str, int],
    chosen: list[int],
) -> Bad:
    from foursight.models.training.measure import GIVEN_SCORE  # noqa: PLC0415

    given = [one for one in answer.predictions if one.score >= GIVEN_SCORE and ids.get(_plain(one.label)) in chosen]
    true = [
        Prediction(
            label=labels[item["category_id"]],
            class_id=item["category_id"],
            score=1,
            wnid=None,
            box=(x, y, x + w, y + h),
            classification=None,
        )
        for item in listing["annotations"]
        if item["image_id"] == tally.image_id and item["category_id"] in chosen and not item.get("iscrowd")
        for x, y, w, h in [item["bbox"]]
    ]
    caption = f"{path.name}: {tally.found} of {tally.found + tally.missed} found, {tally.wrong} wrong"
    return Bad(path, caption, given, true)


def _tables(
    asker: Asker, photos: int, figures: dict[str, "Measured"], labels: dict[int, str], never: list[str]
) -> list[Table]:
    overall = [[name, *(measured.overall[name] for measured in figures.values())] for name in figures["box"].overall]
    rows = [
        [
            labels[number] + (" *" if labels[number] in never else ""),
            int(row["objects"]),
            *(
                measured.classes[number][key]
                for measured in figures.values()
                for key in ("ap", "ap50", "ap75", "ar100")
            ),
        ]
        for number, row in sorted(figures["box"].classes.items(), key=lambda one: -one[1]["ap"])
    ]
    columns = [f"{kind}\n{key}" for kind in figures for key in ("AP", "AP50", "AP75", "AR")]
    title = "By label" + (" (* is no label of the model)" if never else "")
    return [
        _table(f"{asker.model} on {photos} photos", list(figures), overall),
        _table(title, ["objects", *columns], rows),
    ]


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for name, *cells in rows:
        table.add_row(str(name), *("-" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells))
    return table


def _tile(bad: Bad) -> "Image.Image":
    """The photo as it was answered, and beside it as it is, where that is known by boxes."""
    from PIL import Image, ImageOps  # noqa: PLC0415

    from foursight.wire.draw import draw  # noqa: PLC0415

    photo = ImageOps.exif_transpose(Image.open(bad.path)).convert("RGB")
    if not bad.true:
        return draw(photo, bad.answered)
    pair = Image.new("RGB", (2 * photo.width, photo.height))
    pair.paste(draw(photo, bad.answered), (0, 0))
    pair.paste(draw(photo, bad.true), (photo.width, 0))
    return pair
