"""The sections of docs/measurements/performance.md on the cost of a request, from the rows of loadtests.performance."""

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from loadtests import limits
from loadtests.peers import results
from loadtests.plots import plot

# The steps of a request in order, with their titles.
STEPS = {
    "outside": "HTTP, router, client",
    "parse": "parse, hand over",
    "decode": "decode, resize",
    "queue": "queue",
    "inference": "model",
    "finish": "post-process",
    "encode": "encode",
}


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

    plot(draw, docs / "performance-steps.svg", (7, 2.6))
    body = [
        [task, *(f"{times[task][name]:.2f}" for name in STEPS), f"{sum(times[task].values()):.2f}"] for task in tasks
    ]
    return _section(
        "Where the time of one request goes",
        "One connection, in milliseconds. Decode, queue and model are the server's own times (the `Server-Timing` "
        "header). Post-processing (labels, boxes in pixels, pasted masks) and encoding (RLE, JSON) were timed "
        "separately in one process; the first two columns are the remainder.",
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

    plot(draw, docs / "performance-sizes.svg", (5, 3))
    return _section(
        "Image size",
        "One connection. The last three columns are from decoding to the result in one process, with the image "
        "decoded at a reduced size and at its full size.",
        "performance-sizes.svg",
        ["task", "image", "kB", "p50 ms", "decoding ms", "reduced ms", "full ms", "full / reduced"],
        body,
    )


def _objects(rows: list[dict[str, Any]], docs: Path) -> str:
    return _curve(
        rows,
        docs,
        "objects",
        "Objects in an image",
        "Segment, an image of 640 x 480, one connection. `max_detections` sets the number of objects, with masks.",
    )


def _connections(rows: list[dict[str, Any]], docs: Path) -> str:
    text = "Classify, images of 500 x 400; each connection sends its next request as soon as it is answered."
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
    plot(draw, docs / name, (5, 3))
    body = [[str(value), *(one.text(1) for f in figures if (one := found[f][i]))] for i, value in enumerate(values)]
    return _section(title, text, name, [key, *(titles[figure] for figure in figures)], body)


def _batches(rows: list[dict[str, Any]], docs: Path) -> str:
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    sizes = sorted({row["batch"] for row in rows})
    times = {task: [_median(rows, "ms", task=task, batch=size) for size in sizes] for task in tasks}

    def draw(axes: Axes) -> None:
        for task in tasks:
            axes.plot(sizes, [times[task][0] / value for value in times[task]], marker="o", label=task)
        axes.set(xscale="log", xlabel="batch", ylabel="images per second, batch of 1 = 1", ylim=(0, None))
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.legend()

    plot(draw, docs / "performance-batches.svg", (5, 3))
    return _section(
        "Batch size",
        "`predict` alone in one process: milliseconds per image, by batch size.",
        "performance-batches.svg",
        ["task", *map(str, sizes)],
        [[task, *(f"{value:.1f}" for value in times[task])] for task in tasks],
    )


def _idle(rows: list[dict[str, Any]], docs: Path) -> str:
    body = [
        [
            "cached" if row["cached"] else "none",
            f"{row['ready']:.1f}",
            f"{row['core']:.1%}",
            f"{row['pss']:,.0f}",
            str(row["processes"]),
        ]
        for row in rows
    ]
    return _section(
        "Idle server",
        "All four tasks, without requests. The first start finds no compiled models in the cache. The share of a core "
        f"is that of all processes over {limits.IDLE_S:.0f} s; it comes from Ray, which wakes each of its processes "
        "many times a second.",
        None,
        ["compiled models", "s to ready", "share of a core", "PSS, MiB", "processes"],
        body,
    )


def _open_loop(rows: list[dict[str, Any]], docs: Path) -> str:
    knee, *offered = rows
    head = [
        "offered",
        "s",
        "answers/s",
        "of the knee",
        "p50 ms",
        "p99 ms",
        "p99 / p50",
        "refused",
        "p99 of refusals, ms",
    ]
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
        f"Classify, one image of 500 x 400. The knee is the rate of a closed loop of {limits.CONNECTIONS} connections: "
        f"{knee['rate']:.1f} answers/s (p50 {knee['p50']:.1f} ms, {knee['pss']:,.0f} MiB PSS). A share of this rate is "
        "then offered in an open loop: requests are sent at a constant rate, and the time of a request counts from "
        "when it was due. Requests beyond the capacity get 503 and Retry-After.",
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
        "Memory with large images",
        f"Segment, JPEGs of 4000 x 3000, {limits.CONNECTIONS} connections for {limits.LARGE_S:.0f} s: the peak memory "
        "of the worker, before and after. An image is decoded at a reduced size, and masks are computed only inside "
        "their boxes.",
        None,
        ["kB", "answers/s", "p50 ms", "refused, failed", "peak MiB before", "peak MiB after"],
        body,
    )


SECTIONS: dict[str, Callable[[list[dict[str, Any]], Path], str]] = {
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
    """Return the median of a figure over the rows with these values."""
    return float(statistics.median(row[figure] for row in rows if all(row[key] == where[key] for key in where)))


def _section(title: str, text: str, plot: str | None, head: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]
    picture = f"![{title.lower()}]({plot})\n\n" if plot else ""
    return f"## {title}\n\n{text}\n\n{picture}" + "\n".join(lines) + "\n"
