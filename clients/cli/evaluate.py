"""`foursight evaluate`: how good a task is on photos whose answers are known."""

import json
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.console import Console
from rich.table import Table

from foursight.clients.cli import evaluate_localize
from foursight.clients.cli.evaluation import (
    Asker,
    Bad,
    EvaluateError,
    Report,
    ask_all,
    ask_photos,
    categories_of,
    folder_of,
    make_table,
    plain,
    read_coco,
    true_objects,
)
from foursight.schema import Answer, ModelCard, Prediction, Rle

if TYPE_CHECKING:
    from PIL import Image

    from foursight.models.catalogue import SupportsFineTuned
    from foursight.models.evaluation.measure import CocoMetrics, ImageScore

# Below this nothing leaves the network; AP is the area under all thresholds.
LOWEST_SCORE = 0.05
TOP = 5
CONCURRENCY = 4
TIMEOUT_S = 120


def evaluate(
    data: Annotated[Path, typer.Argument(help="A COCO JSON file, or a folder with one for each class.")],
    task: Annotated[
        Literal["classify", "localize", "detect", "segment"] | None,
        typer.Option(help="classify, localize, detect, segment; or the model's.", metavar="TASK"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A fine-tuned model: its name or path.")] = None,
    models_dir: Annotated[
        Path | None,
        typer.Option(envvar="FOURSIGHT_MODELS_DIR", show_envvar=False, help="Where --model lies.", metavar="FOLDER"),
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
    """Measure a task, or a fine-tuned model, on photos whose answers are known.

    Boxes and masks by pycocotools (AP, AP50, AP75, AR), the main object's box by
    MaxBoxAcc, labels by top-1 and top-5. Labels are matched by name.
    """
    try:
        # A fine-tuned model says itself what it is for.
        wanted = task or (None if model else "classify" if data.is_dir() else "detect")
        if wanted:
            _require_data(wanted, data)
        asker = _server(url, wanted, model) if url else _local(wanted, profile, model, models_dir)
        chosen = asker.task
        _require_data(chosen, data)
        asked = [name.strip() for name in classes.split(",")] if classes else None
        if chosen == "classify":
            report = _classes(data, asker, asked, limit, worst)
        elif chosen == "localize":
            report = evaluate_localize.report(data, images, asker, asked, limit, worst)
        else:
            report = _objects(data, images, asker, asked, limit, worst)
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
        from foursight.drawing.sheet import contact_sheet  # noqa: PLC0415

        contact_sheet([(_tile(bad), bad.caption) for bad in report.worst]).save(sheet)
    failed = report.content["failed"]
    for failure in failed:
        print(f"no answer: {failure['file']}: {failure['error']}", file=sys.stderr)
    raise typer.Exit(1 if failed else 0)


def _require_data(task: str, data: Path) -> None:
    if (task == "classify") != data.is_dir():
        raise EvaluateError(f"{task} is measured on {'a folder' if task == 'classify' else 'a COCO file'}.")


def _local(task: str | None, profile: Literal["tiny", "standard"], model: str | None, models_dir: Path | None) -> Asker:
    from foursight import models  # noqa: PLC0415
    from foursight.clients.cli.tuned import find  # noqa: PLC0415
    from foursight.serving.encoding import to_answer  # noqa: PLC0415

    try:
        tuned = find(model, models_dir) if model else None
        chosen = task or (tuned.task if tuned else "classify")
        loaded = models.load(chosen, profile)
        card = loaded.card
        if tuned:
            # Each task of the catalogue is a host.
            host = cast("SupportsFineTuned", loaded)
            host.install(tuned.name, tuned.folder)
            (card,) = host.finetuned_cards()
    except models.ModelError as error:
        raise EvaluateError(str(error)) from None
    options = _options(chosen) | ({"model": card.name} if tuned else {})

    def ask(body: bytes) -> Answer:
        image = models.decode(body)
        found = models.run(loaded, image, **options)
        return to_answer(card.name, image.size, found, "rle")

    has_wnids = not tuned and chosen in ("classify", "localize")
    return Asker(chosen, card.name, card.labels, has_wnids, ask, 1)


def _server(url: str, task: str | None, model: str | None) -> Asker:
    from foursight.clients.cli.server import reach  # noqa: PLC0415
    from foursight.clients.sdk.client import Client  # noqa: PLC0415

    card = _served(reach(url, None), url, task, model)
    method = getattr(Client(url, timeout=TIMEOUT_S), card.task)
    options = _options(card.task) | ({"model": card.name} if card.finetuned else {})

    def ask(body: bytes) -> Answer:
        result = method(body, **options)
        found = [prediction.to_wire() for prediction in result.predictions]
        return Answer(model=result.model, image=result.image, predictions=found)

    has_wnids = not card.finetuned and card.task in ("classify", "localize")
    return Asker(card.task, card.name, tuple(card.labels), has_wnids, ask, CONCURRENCY)


def _served(cards: list[ModelCard], url: str, task: str | None, model: str | None) -> ModelCard:
    """The card of a model that a server has, or of a task's own. Raises EvaluateError."""
    if model is None:
        own = [card for card in cards if card.task == task and not card.finetuned]
        if not own:
            raise EvaluateError(f"The server at {url} does not serve {task}.")
        return own[0]
    named = [card for card in cards if card.name == model and task in (None, card.task)]
    if not named:
        of = f" for {task}" if task else ""
        there = ", ".join(card.name for card in cards if task in (None, card.task))
        raise EvaluateError(f"The server at {url} has no model {model!r}{of}. There are: {there}.")
    return named[0]


def _options(task: str) -> dict[str, Any]:
    return {
        "classify": {"top_k": TOP},
        "localize": {"top_k": 1},
    }.get(task, {"score_threshold": LOWEST_SCORE, "max_detections": 100})


def _classes(folder: Path, asker: Asker, asked: list[str] | None, limit: int | None, worst: int) -> Report:
    from foursight.clients.cli.sources import SUFFIXES  # noqa: PLC0415
    from foursight.models.evaluation.measure import accuracy  # noqa: PLC0415

    names = sorted(one.name for one in folder.iterdir() if one.is_dir())
    names = [name for name in names if asked is None or name in asked]
    photos = [
        (path, name) for name in names for path in sorted((folder / name).iterdir()) if path.suffix.lower() in SUFFIXES
    ][:limit]
    if not photos:
        raise EvaluateError(f"{folder} has no folder with photos in it: DATA/<label>/photo.jpg is expected.")
    _require_labels(names, asker)
    truth: list[str] = []
    ranked: list[list[str]] = []
    rows: list[tuple[float, Bad]] = []
    failed = []
    for index, answer in ask_all(asker, [path for path, _ in photos]):
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
    overall, classes = accuracy(truth, ranked, len(asker.labels))
    worst_first = [bad for _, bad in sorted(rows, key=lambda row: row[0])][:worst]
    lines = [[name, row["photos"], row["top1"], row["top5"]] for name, row in classes.items()]
    tables = [
        make_table(
            f"{asker.model} on {len(truth)} photos", ["top-1", "top-5"], [["", overall["top1"], overall["top5"]]]
        ),
        make_table("By label", ["photos", "top-1", "top-5"], lines),
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
    return name == prediction.wnid or plain(name) == plain(prediction.label)


def _require_labels(names: Iterable[str], asker: Asker) -> None:
    known = {plain(label) for label in asker.labels}
    for name in names:
        is_wnid = asker.has_wnids and name[:1] == "n" and len(name) == 9 and name[1:].isdecimal()
        if plain(name) not in known and not is_wnid:
            close = ", ".join(get_close_matches(plain(name), known, n=3, cutoff=0.5))
            raise EvaluateError(f"The model has no label {name!r}.{f' Close to it: {close}.' if close else ''}")


def _objects(
    file: Path, images: Path | None, asker: Asker, asked: list[str] | None, limit: int | None, worst: int
) -> Report:
    from foursight.models.evaluation.measure import measure  # noqa: PLC0415

    listing = read_coco(file)
    folder = folder_of(file, images)
    photos = listing["images"][:limit]
    labels, chosen = categories_of(listing, asked)
    ids = {plain(label): number for number, label in labels.items()}
    known = set(map(plain, asker.labels))
    if not any(plain(labels[number]) in known for number in chosen):
        raise EvaluateError(f"No category of the data is a label of {asker.model}: {', '.join(asker.labels[:20])}.")
    answers, failed = ask_photos(asker, folder, photos)
    results = [result for number, answer in answers.items() for result in _results(number, answer, ids)]
    kinds: dict[str, Literal["bbox", "segm"]] = {"box": "bbox"}
    if asker.task == "segment":
        kinds["mask"] = "segm"
    figures = {name: measure(file, answers, results, kind, chosen) for name, kind in kinds.items()}
    never = sorted(labels[number] for number in figures["box"].classes if plain(labels[number]) not in known)
    by_id = {photo["id"]: photo for photo in photos}
    worst_first = [
        _bad(tally, folder / by_id[tally.image_id]["file_name"], answers[tally.image_id], listing, labels, ids, chosen)
        for tally in _order(figures["box"].images)[:worst]
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


def _results(image_id: int, answer: Answer, ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    """An answer in COCO's results format; labels that the data does not have are no part of the measure."""
    for one in answer.predictions:
        if one.box is None or plain(one.label) not in ids:
            continue
        left, top, right, bottom = one.box
        result: dict[str, Any] = {
            "image_id": image_id,
            "category_id": ids[plain(one.label)],
            "bbox": [left, top, right - left, bottom - top],
            "score": one.score,
        }
        if isinstance(one.mask, Rle):
            result["segmentation"] = {"size": list(one.mask.size), "counts": one.mask.counts}
        yield result


def _order(tallies: Iterable["ImageScore"]) -> list["ImageScore"]:
    """Photos with an error, from the lowest F1 on; of equal ones those with more errors first."""
    wrong = [tally for tally in tallies if tally.missed + tally.wrong]
    return sorted(wrong, key=lambda tally: (tally.f1, -(tally.missed + tally.wrong)))


def _bad(
    tally: "ImageScore",
    path: Path,
    answer: Answer,
    listing: dict[str, Any],
    labels: dict[int, str],
    ids: dict[str, int],
    chosen: list[int],
) -> Bad:
    from foursight.models.evaluation.measure import COUNTED_SCORE  # noqa: PLC0415

    given = [one for one in answer.predictions if one.score >= COUNTED_SCORE and ids.get(plain(one.label)) in chosen]
    objects = [
        item
        for item in listing["annotations"]
        if item["image_id"] == tally.image_id and item["category_id"] in chosen and not item.get("iscrowd")
    ]
    caption = f"{path.name}: {tally.found} of {tally.found + tally.missed} found, {tally.wrong} wrong"
    return Bad(path, caption, given, true_objects(objects, labels))


def _tables(
    asker: Asker, photos: int, figures: dict[str, "CocoMetrics"], labels: dict[int, str], never: list[str]
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
        make_table(f"{asker.model} on {photos} photos", list(figures), overall),
        make_table(title, ["objects", *columns], rows),
    ]


def _tile(bad: Bad) -> "Image.Image":
    """The photo as it was answered, and beside it as it is, where that is known by boxes."""
    from PIL import Image, ImageOps  # noqa: PLC0415

    from foursight.drawing.draw import draw  # noqa: PLC0415

    photo = ImageOps.exif_transpose(Image.open(bad.path)).convert("RGB")
    if not bad.true:
        return draw(photo, bad.answered)
    pair = Image.new("RGB", (2 * photo.width, photo.height))
    pair.paste(draw(photo, bad.answered), (0, 0))
    pair.paste(draw(photo, bad.true), (photo.width, 0))
    return pair
