"""What the bench scripts share: options, interleaved rounds, medians, and the report.

A row is opened once, which prepares what it needs, and then run once a round. Rounds are interleaved (each runs
every row once), so that what else the machine does meanwhile falls on all rows alike. The first round only
warms up: it is run and thrown away.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import Bystanders, describe_machine, revision
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RESULTS = Path(__file__).resolve().parent / "results"
GIB = 1024**3

_OURS, _THEIRS, _INK, _GRID = "#1b6ca8", "#b8c0c8", "#333333", "#e6e6e6"

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_SIZE = re.compile(r"(\d+) ?([KMG]?)(?:iB)?\Z")


class Unavailable(Exception):
    """A row cannot be measured here, and why; the others are."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one row.

    Attributes:
        value: the speed, in the bench's unit.
        extras: what else was measured, by its name in the JSON; ``…_rss_mib`` is a peak. Lists are reported as they
            are, run by run; words, which say how it was measured, once if they are always the same.
    """

    value: float
    extras: Mapping[str, float | list[float] | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """What a row is to measure.

    Attributes:
        file: of random bytes, in the page cache.
        size: its length in bytes.
        scratch: a directory for whatever the row leaves; emptied at the end.
    """

    file: Path
    size: int
    scratch: Path


Run = Callable[[], Sample]
Opener = Callable[[Job], AbstractContextManager[Run]]


@dataclass(frozen=True, slots=True)
class Bench:
    """One bench script.

    Attributes:
        name: of the bench, and of its JSON file.
        about: one sentence for ``--help``.
        unit: of all rows' values.
        size: of the file, in bytes, unless ``--size`` says otherwise.
        rows: how to open each row, by name, in the order of the report.
        ratios: pairs of rows whose ratio is reported.
        columns: the extras shown in the table, by name, with their headings.
        warm_up: whether the first round is thrown away.
        rounds: how many, unless ``--rounds`` says otherwise.
    """

    name: str
    about: str
    unit: str
    size: int
    rows: Mapping[str, Opener]
    ratios: Sequence[tuple[str, str]] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    warm_up: bool = True
    rounds: int = 5


def parse_size(text: str) -> int:
    """Bytes from ``1GiB``, ``64M``, ``4096``; units are powers of 1024."""
    match = _SIZE.match(text)
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (write 64MiB, 1GiB, 4096)")
    return size


def main(bench: Bench) -> None:
    """Run a bench as its command line says, and report."""
    options = _parse(bench)
    report = measure(bench, options.size, options.rounds, options.only, options.dir)
    out: Path = options.out or RESULTS / f"{bench.name}.json"
    text = json.dumps(report, indent=2)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f"{text}\n")
    if options.json:
        print(text)
    else:
        print_table(bench, report)
    if options.plot:
        plot(bench, report, out.with_suffix(".png"))


def _parse(bench: Bench) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        wanted = text.split(",")
        for name in wanted:
            if name not in bench.rows:
                known = ", ".join(bench.rows)
                raise argparse.ArgumentTypeError(f"no row {name!r}; there are: {known}")
        return [name for name in bench.rows if name in wanted]

    def rounds(text: str) -> int:
        count = int(text)
        if bench.warm_up and count < 2:
            raise argparse.ArgumentTypeError("at least 2: the first is thrown away")
        if count < 1:
            raise argparse.ArgumentTypeError("at least 1")
        return count

    parser = argparse.ArgumentParser(description=bench.about)
    parser.add_argument("--size", type=parse_size, default=bench.size, help="of the file: 1GiB")
    what = "the first is thrown away" if bench.warm_up else "each counts"
    parser.add_argument("--rounds", type=rounds, default=bench.rounds, help=what)
    parser.add_argument("--only", type=names, default=list(bench.rows), metavar="NAME,...")
    parser.add_argument("--json", action="store_true", help="the report on stdout")
    parser.add_argument("--plot", action="store_true", help="a picture beside the JSON file")
    parser.add_argument("--out", type=Path, metavar="FILE", help="instead of bench/results/")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="scratch space on a real disk")
    options = parser.parse_args()
    if options.plot:
        _pyplot()  # before the work, not after it
    return options


def measure(
    bench: Bench, size: int, rounds: int, only: Sequence[str], directory: Path | None
) -> dict[str, Any]:
    """Run the rows, interleaved, and return the report as it goes into JSON."""
    samples: dict[str, list[Sample]] = {}
    skipped: dict[str, str] = {}
    at_start = {
        "machine": describe_machine(directory or Path(tempfile.gettempdir())),
        "revision": revision(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    load = [round(os.getloadavg()[0], 2)]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory)))
        job = Job(random_file(scratch / "model.gguf", size), size, scratch)
        runs: dict[str, Run] = {}
        for name in only:
            _say(f"{name}: preparing")
            try:
                runs[name] = stack.enter_context(bench.rows[name](job))
            except Unavailable as exc:
                skipped[name] = str(exc)
                _say(f"{name}: skipped: {exc}")
        for number in range(1, rounds + 1):
            for name in shuffled(runs, number):
                os.sync()  # no row pays for what another one wrote
                bystanders = Bystanders()
                sample = runs[name]()
                extras = {**sample.extras, "others_share": bystanders.share()}
                sample = replace(sample, extras=extras)
                counts = number > 1 or not bench.warm_up
                note = "" if counts else " (thrown away)"
                _say(f"round {number}/{rounds}: {name}: {sample.value:.2f} {bench.unit}{note}")
                if counts:
                    samples.setdefault(name, []).append(sample)
    load.append(round(os.getloadavg()[0], 2))
    return {
        "bench": bench.name,
        "command": _command(bench),
        **at_start,
        "load": load,
        "size_bytes": size,
        "rounds": rounds,
        "rows": [summary(name, bench.unit, samples[name]) for name in only if name in samples],
        "ratios": [
            ratio(above, below, samples)
            for above, below in bench.ratios
            if above in samples and below in samples
        ],
        "skipped": skipped,
    }


def shuffled(rows: Iterable[str], number: int) -> list[str]:
    """The order of a round, another one in each: what a row leaves behind does not always meet the same row."""
    order = list(rows)
    random.Random(number).shuffle(order)
    return order


def summary(name: str, unit: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """One row of the report: the median of all but memory, of which the peak counts."""
    values = [sample.value for sample in samples]
    row: dict[str, Any] = {
        "name": name,
        "unit": unit,
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
        "runs": [round(value, 3) for value in values],
    }
    for extra in samples[0].extras:
        all_seen = [sample.extras[extra] for sample in samples]
        seen = [each for each in all_seen if not isinstance(each, list | str)]
        if len(seen) < len(all_seen):
            alike = isinstance(all_seen[0], str) and len(set(map(str, all_seen))) == 1
            row[extra] = all_seen[0] if alike else all_seen
        else:
            row[extra] = round(max(seen) if extra.endswith("_mib") else statistics.median(seen), 3)
    return row


def ratio(above: str, below: str, samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """The ratio of two rows' medians, and the lowest and highest within any one round."""
    upper, lower = ([sample.value for sample in samples[name]] for name in (above, below))
    rounds = [a / b for a, b in zip(upper, lower, strict=True)]
    return {
        "name": f"{above} / {below}",
        "value": round(statistics.median(upper) / statistics.median(lower), 3),
        "min": round(min(rounds), 3),
        "max": round(max(rounds), 3),
    }


def print_table(bench: Bench, report: Mapping[str, Any]) -> None:
    """The report for people."""
    console = Console()
    if not console.is_terminal:
        console.width = 160
    size = f"{report['size_bytes'] / GIB:.3g} GiB"
    counted = report["rounds"] - bench.warm_up
    table = Table(title=f"{bench.name}: {size}, {counted} rounds counted")
    table.add_column("row", no_wrap=True)
    columns = {**bench.columns, "others_share": "others' share"}
    for heading in (f"median {bench.unit}", "min", "max", *columns.values()):
        table.add_column(heading, justify="right", min_width=5)
    for row in report["rows"]:
        shown = ("median", "min", "max", *columns)
        table.add_row(row["name"], *(f"{row[key]:.4g}" if key in row else "" for key in shown))
    console.print(table)
    for found in report["ratios"]:
        spread = f"(by round: {found['min']:.2f} to {found['max']:.2f})"
        console.print(f"{found['name']}: {found['value']:.2f} {spread}", highlight=False)
    for name, reason in report["skipped"].items():
        console.print(f"skipped {name}: {reason}", highlight=False)


def plot(bench: Bench, report: Mapping[str, Any], path: Path) -> None:
    """Bars of the medians, with whiskers from the lowest run to the highest, as a PNG file; peatnet's stand out."""
    rows = report["rows"]
    medians = [row["median"] for row in rows]
    spread = [
        [row["median"] - row["min"] for row in rows],
        [row["max"] - row["median"] for row in rows],
    ]
    colors = [_OURS if row["name"].startswith("peatnet") else _THEIRS for row in rows]
    figure, axes = _pyplot().subplots(figsize=(9, 1.2 + 0.42 * len(rows)), layout="constrained")
    whiskers = {"ecolor": _INK, "elinewidth": 1, "capsize": 3}
    axes.barh([row["name"] for row in rows], medians, 0.66, color=colors)
    axes.errorbar(medians, range(len(rows)), xerr=spread, fmt="none", **whiskers)
    for number, row in enumerate(rows):
        axes.annotate(
            f"{row['median']:.4g}",
            (row["max"], number),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=_INK,
        )
    axes.invert_yaxis()  # the order of the table
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, colors=_INK)
    axes.grid(axis="x", color=_GRID)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{bench.unit} (median; whiskers: lowest and highest run)", color=_INK)
    axes.set_title(f"{bench.name}: {bench.about}", loc="left", color=_INK, fontsize=11)
    figure.savefig(path, dpi=144)
    _say(f"plot: {path}")


def _pyplot() -> Any:
    try:
        import matplotlib as mpl  # noqa: PLC0415  # optional, and slow to import
    except ImportError:
        sys.exit("--plot needs matplotlib: pip install 'peatnet[bench]'")
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  # as above

    return plt


def random_file(path: Path, size: int) -> Path:
    """A file of random bytes, written and still in the page cache."""
    with path.open("wb") as file:
        for offset in range(0, size, 1024**2):
            file.write(os.urandom(min(1024**2, size - offset)))
        file.flush()
        os.fsync(file.fileno())
    return path


def _command(bench: Bench) -> str:
    return " ".join(["python", f"bench/{bench.name}.py", *sys.argv[1:]])


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
