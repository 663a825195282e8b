"""The whole set of benches, on this machine or on several, and one report of it. ``scripts/multi_node_bench`` runs it.

Without ``--hosts`` each bench script runs here, one after the other. With it, one model goes from the first host to
all others; see `remote`. Either way the report is one Markdown file and one JSON file.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import RESULTS, parse_size
from machine import ROOT, revision
from processes import environment
from remote import HostsError, measure_hosts, read_hosts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

BENCHES: dict[str, Sequence[str]] = {
    "hashing": ("--size", "64MiB", "--rounds", "2"),
    "throughput": ("--size", "128MiB", "--rounds", "2"),
    "fanout": ("--size", "32MiB", "--rounds", "1"),
    "far": ("--size", "1MiB", "--rounds", "1"),
    "small": ("--rounds", "2"),
    "gossip": ("--rounds", "2"),
    "simulate": ("--nodes", "100", "--size", "1GiB", "--rounds", "1"),
}
"""The scripts, with the options that make a run quick; a full one takes each as it is."""

LIMIT_S = 3 * 3600.0
STOP_S = 60.0
_TAIL = 2000
_COLUMNS = ("median", "min", "max", "unit")
_MORE = (
    "source_sent",
    "duplicates",
    "victim_over_bound",
    "source_cpu_s",
    "sink_cpu_s",
    "source_rss_mib",
    "sink_rss_mib",
    "others_share",
)


def main() -> int:
    """What the command line says; 1 where something failed, 2 where it could not begin."""
    options = _parse()
    failed = False
    if options.hosts is not None:
        try:
            report = measure_hosts(
                read_hosts(options.hosts),
                options.size,
                options.rounds,
                options.port,
                options.peatnet,
                _say,
            )
        except HostsError as exc:
            print(f"multi_node_bench: {exc}", file=sys.stderr)
            return 2
        out = _directory(options.out, kept=False)
        text = _hosts_markdown(report)
    else:
        out = _directory(options.out, kept=not options.quick)
        report, failed = _run_here(options.only, out, quick=options.quick)
        text = _local_markdown(report)
    (out / "report.json").write_text(f"{json.dumps(report, indent=2)}\n")
    (out / "report.md").write_text(text)
    print(text if not options.json else json.dumps(report, indent=2), end="")
    _say(f"report: {out / 'report.md'} and report.json")
    return int(failed)


def _parse() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        wanted = text.split(",")
        for name in wanted:
            if name not in BENCHES:
                raise argparse.ArgumentTypeError(f"no bench {name!r}: {', '.join(BENCHES)}")
        return [name for name in BENCHES if name in wanted]

    def count(text: str) -> int:
        number = int(text)
        if not 1 <= number <= 100:
            raise argparse.ArgumentTypeError("1 to 100")
        return number

    def port(text: str) -> int:
        number = int(text)
        if not 0 <= number <= 65_534:
            raise argparse.ArgumentTypeError("0 to 65534; the one after it is used too")
        return number

    parser = argparse.ArgumentParser(
        prog="multi_node_bench", description="All benches on this machine, or a fan-out over ssh."
    )
    parser.add_argument("--quick", action="store_true", help="small files, few rounds")
    parser.add_argument("--only", type=names, default=list(BENCHES), metavar="BENCH,...")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    there = parser.add_argument_group("over ssh")
    there.add_argument("--hosts", type=Path, metavar="FILE", help="an ssh destination a line")
    there.add_argument("--size", type=parse_size, default=parse_size("1GiB"), help="of the model")
    there.add_argument("--rounds", type=count, default=3, help="how often; each counts")
    there.add_argument("--port", type=port, default=7419, help="that nodes listen on there")
    there.add_argument("--peatnet", default="peatnet", metavar="PATH", help="the command there")
    return parser.parse_args()


def _directory(wanted: Path | None, *, kept: bool) -> Path:
    """Where the report goes: a full run replaces the results that are kept, others have a directory of their own."""
    if wanted is None:
        return RESULTS if kept else Path(tempfile.mkdtemp(prefix="peatnet-bench-"))
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted


def _run_here(only: Sequence[str], out: Path, *, quick: bool) -> tuple[dict[str, Any], bool]:
    """Each script as a command of its own; one that fails does not keep the others from running."""
    benches: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for name in only:
        script = ROOT / "bench" / f"{name}.py"
        _say(f"{name}: running")
        command = [sys.executable, str(script), "--json", "--out", str(out / f"{name}.json")]
        command += BENCHES[name] if quick else ()
        try:
            benches[name] = json.loads(_finish(command))
        except BenchError as exc:
            failures[name] = str(exc)
        if name in failures:
            _say(f"{name}: failed: {failures[name]}")
    report = {
        "bench": "all",
        "quick": quick,
        "revision": revision(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "benches": benches,
        "failed": failures,
    }
    return report, bool(failures)


class BenchError(Exception):
    """A script failed; with the end of what it said."""


def _finish(command: Sequence[str]) -> str:
    """Run a script to its end and return what it prints; however this is left, it has taken down what it started.

    Raises:
        BenchError: it failed, or took too long.
    """
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired as exc:
            raise BenchError(f"no end in {LIMIT_S:.0f} s") from exc
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # the scripts clean up as for Ctrl-C
                try:
                    process.communicate(timeout=STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
    if process.returncode != 0:
        raise BenchError(err.strip()[-_TAIL:])
    return out


def _local_markdown(report: Mapping[str, Any]) -> str:
    lines = ["# peatnet: all benches", "", f"Revision {report['revision']}."]
    if report["quick"]:
        lines += [
            "",
            "A quick run: small files and few rounds. Its figures show that all works, not more.",
        ]
    for name, found in report["benches"].items():
        lines += ["", f"## {name}", ""]
        if (machine := found.get("machine")) is not None:
            lines += [f"{machine.get('cores')} cores, {machine.get('cpu')}.", ""]
        rows = found.get("rows", [])
        columns = [*_COLUMNS, *(key for key in _MORE if any(key in row for row in rows))]
        lines += _table(
            ["row", *(column.replace("_", " ") for column in columns)],
            [[row["name"], *(_cell(row.get(column)) for column in columns)] for row in rows],
        )
        for ratio in found.get("ratios", []):
            lines += [
                "",
                f"{ratio['name']}: {ratio['value']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
            ]
        for skipped, why in found.get("skipped", {}).items():
            lines += ["", f"Skipped {skipped}: {why}"]
    for name, why in report["failed"].items():
        lines += ["", f"## {name} failed", "", "```", why, "```"]
    return "\n".join(lines) + "\n"


def _hosts_markdown(report: Mapping[str, Any]) -> str:
    about = (
        f"{report['size_bytes'] / 2**20:.0f} MiB from {report['hosts'][0]['name']} to "
        f"{len(report['hosts']) - 1} others at once, {len(report['rounds'])} rounds."
    )
    lines = ["# peatnet: one model to several machines", "", about, ""]
    lines += _table(
        ["host", "peatnet", "system", "cores"],
        [
            [host["name"], host["version"], host["system"], host["cores"]]
            for host in report["hosts"]
        ],
    )
    lines += [
        "",
        "Seconds are what each node reports, from being asked to a file that is verified and on disk.",
    ]
    names = [host["name"] for host in report["hosts"][1:]]
    lines += [""]
    lines += _table(
        ["round", *names, "last", "MB/s in all", "source sent"],
        [
            [
                str(number),
                *(_cell(got["sinks"][name]["seconds"]) for name in names),
                _cell(got["last_s"]),
                _cell(got["aggregate_mb_s"]),
                _cell(got["source_sent"]),
            ]
            for number, got in enumerate(report["rounds"], 1)
        ],
    )
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float | int) else str(value)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # so that what runs elsewhere is stopped
    sys.exit(main())
