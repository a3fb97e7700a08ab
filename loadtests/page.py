"""docs/performance.md and its plots, from the results that `loadtests.peers` and `loadtests.performance` keep."""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from loadtests import limits
from loadtests.peers import results, servers

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "loadtests" / "results" / "peers.json"
DOCS = ROOT / "docs"
# The server's steps in their order, with what they hold.
STEPS = {
    "outside": "HTTP, router, client",
    "parse": "parse, hand over",
    "decode": "decode, resize",
    "queue": "queue",
    "inference": "model",
    "finish": "post-process",
    "encode": "encode",
}
INTRODUCTION = """# Performance

Made by `python -m loadtests.performance page` from the files in `loadtests/results/`; do not edit. Figures are
medians, with the least and the largest of all rounds in brackets. Ratios are taken within a round, between
measurements that follow each other, since machines drift.
"""
PEER_TEXT = """## Beside other servers

`python -m loadtests.peers`: the same weights (tiny profile), the same three photos in turn (classify 500 x 400, the
others 640 x 480, JPEG), the same form (multipart), client and cores; server and client share the machine. A
server's answers are compared with the model's first: labels, scores within .001, boxes within 1 px, masks with an
overlap of .98. All servers are started, and measured by turns; those that are not have their processes stopped, and
cost nothing. Each peer's program, its tuning and the reasons for it are in `loadtests/peers/`.

- `fastapi`, `litserve`, `bentoml`, `rayserve`: Pillow, torchvision's transforms and eager PyTorch, as their users
  write it; for detect and segment torchvision's own `forward`, whose masks are cut at .5 and encoded by
  pycocotools.
- BentoML's batching learns how long to wait; what it learned from 16 connections, a lone request waits as well.
- `+engine`: the same program, with Foursight's model, engine and decoding inside, and its workers' environment
  (allocator, OpenMP).
- `limit`: decode, prepare, predict and finish in one process, with no HTTP.

Not run here: TorchServe and Triton, which need a Java runtime and NVIDIA's container. TorchServe batches up to
`batchSize` requests, and waits `maxBatchDelay` (100 ms, where it is not set) for them; its pages say that it is no
longer maintained. Triton's dynamic batcher, like ours, by default makes batches of what has arrived, without a
delay, and it has an OpenVINO backend; decoding is the user's, in a Python or DALI model before the network, as an
ensemble. (https://docs.pytorch.org/serve/batch_inference_with_ts.html,
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/batcher.html)
"""


def write(costs: Path, peers: Path = PEERS, docs: Path = DOCS) -> None:
    """Write the page and the plots of the parts that have been measured."""
    content = results.read(peers)
    kept = json.loads(costs.read_text()) if costs.exists() else {}
    parts = [INTRODUCTION, _machines([*content["runs"], *(part["made"] for part in kept.values())])]
    if content["rows"]:
        parts.append(_peers(results.rows_of(content), docs))
    parts += [render(kept[name]["rows"], docs) for name, render in COSTS.items() if name in kept]
    (docs / "performance.md").write_text("\n".join(parts))


def _machines(runs: list[dict[str, Any]]) -> str:
    found = sorted({f"{run['cores']} cores, {run['cpu']}, Python {run['python']}" for run in runs})
    versions = {f"{name} {number}" for run in runs for name, number in run["versions"].items()}
    busy = sorted(run["load"] for run in runs)
    days = sorted({run["run"][:10] for run in runs})
    lines = [f"- {', '.join(days)}: {'; '.join(found)}.", f"- {', '.join(sorted(versions))}."]
    if busy:
        lines.append(f"- Load average as runs began, with what the runs before left of it: {busy[0]}..{busy[-1]}.")
    return "\n".join(lines) + "\n"


def _peers(rows: list[results.Row], docs: Path) -> str:
    parts = [PEER_TEXT, results.goals(rows)]
    for task in sorted({row.task for row in rows}):
        _plot(_bars(rows, task), docs / f"performance-{task}.svg", (7, 3.4))
        parts += [
            f"\n### {task}\n\n![answers a second of each server](performance-{task}.svg)\n",
            results.table(rows, task, servers.NAMES),
        ]
    return "\n".join(parts) + "\n"


def _bars(rows: list[results.Row], task: str) -> Callable[[Axes], None]:
    """What draws each server's answers a second, with their range, a bar for each number of connections."""

    def draw(axes: Axes) -> None:
        names = [name for name in servers.NAMES if any((row.task, row.server) == (task, name) for row in rows)]
        counts = sorted({row.connections for row in rows if row.task == task})
        height = 0.8 / len(counts)
        for index, count in enumerate(counts):
            found = {n: results.spread(row.rate for row in results.select(rows, task, n, count)) for n in names}
            there = {name: one for name, one in found.items() if one}
            axes.barh(
                [names.index(name) + index * height for name in there],
                [one.median for one in there.values()],
                height,
                xerr=[
                    [one.median - one.least for one in there.values()],
                    [one.most - one.median for one in there.values()],
                ],
                label=f"{count} connection{'s' if count > 1 else ''}",
                error_kw={"elinewidth": 0.8},
            )
        axes.set_yticks([index + height * (len(counts) - 1) / 2 for index in range(len(names))], names)
        axes.invert_yaxis()
        axes.set_xlabel(f"{task}: answers a second")
        axes.legend()

    return draw


def _steps(rows: list[dict[str, Any]], docs: Path) -> str:
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    times: dict[str, dict[str, float]] = {}
    for task in tasks:
        whole = {key: _median(rows, key, task=task) for key in rows[0] if key not in ("task", "round")}
        inside = ("decode", "queue", "inference", "finish", "encode")
        times[task] = {name: whole[name] for name in inside} | {
            "outside": max(0.0, whole["latency"] - whole["total"]),
            "parse": max(0.0, whole["total"] - sum(whole[name] for name in inside)),
        }

    def draw(axes: Axes) -> None:
        left = [0.0] * len(tasks)
        for name, title in STEPS.items():
            share = [100 * times[task][name] / sum(times[task].values()) for task in tasks]
            axes.barh(tasks, share, 0.6, left=left, label=title)
            left = [a + b for a, b in zip(left, share, strict=True)]
        axes.invert_yaxis()
        axes.set(xlabel="% of one request's time", xlim=(0, 100))
        axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8, frameon=False)

    _plot(draw, docs / "performance-steps.svg", (7, 2.6))
    body = [
        [task, *(f"{times[task][name]:.2f}" for name in STEPS), f"{sum(times[task].values()):.2f}"] for task in tasks
    ]
    return _section(
        "Where the time of one request goes",
        "One connection, milliseconds. Decode, queue and model are the server's own (its header `Server-Timing`); "
        "post-processing (labels, boxes in pixels, masks pasted) and encoding (RLE, JSON) were timed alone in one "
        "process; the rest is what is left.",
        "performance-steps.svg",
        ["task", *STEPS.values(), "all"],
        body,
    )


def _sizes(rows: list[dict[str, Any]], docs: Path) -> str:
    keys = list(dict.fromkeys((row["task"], row["width"], row["height"]) for row in rows))
    body = []
    for task, width, height in keys:
        mine = [row for row in rows if (row["task"], row["width"], row["height"]) == (task, width, height)]
        gain = results.spread(row["whole"] / row["reduced"] for row in mine)
        cells = [f"{_median(mine, key):.1f}" for key in ("p50", "decode", "reduced", "whole")]
        body.append(
            [task, f"{width} x {height}", f"{mine[0]['bytes'] / 1000:,.0f}", *cells, gain.text() if gain else ""]
        )

    def draw(axes: Axes) -> None:
        for task in dict.fromkeys(task for task, _, _ in keys):
            places = [key for key in keys if key[0] == task]
            found = [_median(rows, "p50", task=task, width=width) for _, width, _ in places]
            axes.plot([w * h / 1e6 for _, w, h in places], found, marker="o", label=task)
        axes.set(xscale="log", yscale="log", xlabel="megapixels", ylabel="p50, ms")
        axes.legend()

    _plot(draw, docs / "performance-sizes.svg", (5, 3))
    return _section(
        "Photo size",
        "One connection. The last three: decode to result in one process, the photo reduced as it is decoded, and "
        "decoded whole.",
        "performance-sizes.svg",
        ["task", "photo", "kB", "p50 ms", "of it decode", "reduced ms", "whole ms", "whole / reduced"],
        body,
    )


def _objects(rows: list[dict[str, Any]], docs: Path) -> str:
    return _curve(
        rows,
        docs,
        "objects",
        "Objects in a photo",
        "Segment, a picture of 640 x 480, one connection; so many objects, each with its mask, are asked for.",
    )


def _connections(rows: list[dict[str, Any]], docs: Path) -> str:
    text = "Classify, photos of 500 x 400; each connection asks again as soon as it is answered."
    return _curve(rows, docs, "connections", "Connections", text, ("rate", "p50", "p99"))


def _curve(
    rows: list[dict[str, Any]], docs: Path, key: str, title: str, text: str, figures: tuple[str, ...] = ("p50",)
) -> str:
    titles = {"rate": "answers/s", "p50": "p50 ms", "p99": "p99 ms"}
    values = sorted({row[key] for row in rows})
    found = {f: [results.spread(row[f] for row in rows if row[key] == value) for value in values] for f in figures}

    def draw(axes: Axes) -> None:
        for figure in figures:
            medians = [one.median for one in found[figure] if one]
            axes.plot(values, medians, marker="o", label=titles[figure])
        axes.set(xlabel=key, ylim=(0, None), **({"xscale": "log"} if len(figures) > 1 else {}))
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.legend()

    name = f"performance-{key}.svg"
    _plot(draw, docs / name, (5, 3))
    body = [[str(value), *(one.text(1) for f in figures if (one := found[f][i]))] for i, value in enumerate(values)]
    return _section(title, text, name, [key, *(titles[figure] for figure in figures)], body)


def _batches(rows: list[dict[str, Any]], docs: Path) -> str:
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    sizes = sorted({row["batch"] for row in rows})
    times = {task: [_median(rows, "ms", task=task, batch=size) for size in sizes] for task in tasks}

    def draw(axes: Axes) -> None:
        for task in tasks:
            axes.plot(sizes, [times[task][0] / value for value in times[task]], marker="o", label=task)
        axes.set(xscale="log", xlabel="batch", ylabel="photos a second, batch of 1 = 1", ylim=(0, None))
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.legend()

    _plot(draw, docs / "performance-batches.svg", (5, 3))
    return _section(
        "Batch",
        "`predict` alone, in one process: milliseconds a photo by how many are computed together.",
        "performance-batches.svg",
        ["task", *map(str, sizes)],
        [[task, *(f"{value:.1f}" for value in times[task])] for task in tasks],
    )


def _idle(rows: list[dict[str, Any]], docs: Path) -> str:
    body = [
        [
            "kept" if row["cached"] else "none",
            f"{row['ready']:.1f}",
            f"{row['core']:.1%}",
            f"{row['pss']:,.0f}",
            str(row["processes"]),
        ]
        for row in rows
    ]
    return _section(
        "At rest",
        "All four tasks, nobody asks. The first start has no compiled models in its cache. The share of a core is "
        f"that of all processes over {limits.IDLE_S:.0f} s; it is Ray's, which wakes each of its processes many times "
        "a second.",
        None,
        ["compiled models", "s to ready", "of a core", "PSS, MiB", "processes"],
        body,
    )


def _open_loop(rows: list[dict[str, Any]], docs: Path) -> str:
    knee, *offered = rows
    head = ["offered", "s", "answers/s", "of the knee", "p50 ms", "p99 ms", "p99 / p50", "refused", "p99 of these, ms"]
    body = [
        [
            f"{row['offered']:.0%}",
            f"{row['seconds']:.0f}",
            f"{row['rate']:.1f}",
            f"{row['rate'] / knee['rate']:.2f}",
            f"{row['p50']:.1f}",
            f"{row['p99']:.1f}",
            f"{row['p99'] / row['p50']:.2f}",
            f"{row['refused']:,}",
            f"{row['refusal_p99']:.1f}" if row["refused"] else "",
            str(row["failed"]),
            f"{row['pss']:,.0f}",
        ]
        for row in offered
    ]
    return _section(
        "Offered load",
        f"Classify, one photo of 500 x 400. A closed loop of {limits.CONNECTIONS} connections gives the knee, "
        f"{knee['rate']:.1f} answers/s (p50 {knee['p50']:.1f} ms, {knee['pss']:,.0f} MiB PSS then). A part of it is "
        "then offered at a constant rate, whatever comes back, and a request's time counts from when it was due. What "
        "is too much is refused with 503 and Retry-After; the last column but two is how long a refusal took.",
        None,
        [*head, "failed", "PSS after, MiB"],
        body,
    )


def _large(rows: list[dict[str, Any]], docs: Path) -> str:
    body = [
        [
            f"{row['bytes'] / 1000:,.0f}",
            f"{row['rate']:.2f}",
            f"{row['p50']:,.0f}",
            f"{row['refused']}, {row['failed']}",
            f"{row['before']:,.0f}",
            f"{row['peak']:,.0f}",
        ]
        for row in rows
    ]
    return _section(
        "Memory under large photos",
        f"Segment, JPEGs of 4000 x 3000, {limits.CONNECTIONS} connections for {limits.LARGE_S:.0f} s: the most memory "
        "that the worker had, before and after. A photo is decoded reduced, and its masks are only ever made inside "
        "their boxes.",
        None,
        ["kB", "answers/s", "p50 ms", "refused, failed", "MiB before", "MiB at most"],
        body,
    )


COSTS: dict[str, Callable[[list[dict[str, Any]], Path], str]] = {
    "steps": _steps,
    "sizes": _sizes,
    "objects": _objects,
    "connections": _connections,
    "batches": _batches,
    "idle": _idle,
    "open_loop": _open_loop,
    "large": _large,
}


def _median(rows: Iterable[dict[str, Any]], figure: str, **where: Any) -> float:
    """The median of a figure in the rows that have these values."""
    return float(statistics.median(row[figure] for row in rows if all(row[key] == where[key] for key in where)))


def _section(title: str, text: str, plot: str | None, head: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]
    picture = f"![{title.lower()}]({plot})\n\n" if plot else ""
    return f"## {title}\n\n{text}\n\n{picture}" + "\n".join(lines) + "\n"


def _plot(draw: Callable[[Axes], None], path: Path, size: tuple[float, float]) -> None:
    # Text as text, and nothing of the day: the same results give the same small file.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "foursight", "font.size": 9}):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        draw(axes)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
