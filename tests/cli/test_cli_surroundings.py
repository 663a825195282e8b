"""What a shell does around a command: streams that are closed, full or not UTF-8, and signals. Real processes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.nodes import Cluster, Ran, environment, peatnet

from peatnet.cli.output import EXIT_BROKEN_PIPE
from peatnet.errors import DiskFull, NotFound

NAME = "Löß…🦊"
PATIENCE = 30.0


@pytest.fixture
def known(data: Path, tmp_path: Path) -> Path:
    """A data directory with a model whose name is not ASCII."""
    model = tmp_path / "tiny-q8_0.gguf"
    model.write_bytes(os.urandom(1000))
    peatnet(data, "publish", model, "--id", "tiny", "--name", NAME).ok()
    return data


def in_shell(data: Path, words: str, **environ: str) -> Ran:
    """Runs what a shell makes of `peatnet` and these words."""
    program = shlex.join([sys.executable, "-m", "peatnet"])
    done = subprocess.run(
        ["/bin/sh", "-c", f"{program} {words}"],
        env=environment(data) | environ,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    return Ran(
        [words], done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1")
    )


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.slow)])
def test_an_encoding_that_lacks_a_character_is_no_bug(known: Path, encoding: str) -> None:
    plain = {"LC_ALL": "C", "PYTHONIOENCODING": encoding}
    assert "\\u2026" in in_shell(known, "models", **plain).ok().out  # of the publisher's …
    for words in ("show tiny", "show tiny --json"):
        shown = in_shell(known, words, **plain).json()
        assert shown["name"] == NAME
    missing = in_shell(known, "show nosuch-é --json", **plain).failed(NotFound)
    told = json.loads(missing.err.splitlines()[-1])["error"]
    assert told["message"] == "no model 'nosuch-é' is known here"
    shown = "nosuch-é" if encoding == "latin-1" else "nosuch-\\xe9"
    assert shown in missing.err.splitlines()[0]


def test_a_stdout_that_was_closed_is_one_whose_reader_has_gone(known: Path) -> None:
    for words in ("models >&-", "models --json >&-", "--help >&-", "models >&- 2>&-"):
        ran = in_shell(known, words)
        assert (ran.code, ran.out, ran.err) == (EXIT_BROKEN_PIPE, "", ""), words
    quiet = in_shell(known, "show nosuch 2>&-")
    assert (quiet.code, quiet.out) == (NotFound.exit_code, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_stdout_is_not_blamed_on_the_node_that_answers(nodes: Cluster, known: Path) -> None:
    node = nodes.up("data", "--fetch", "none")
    assert node.data_dir == known
    for words in ("status tiny --watch", "status tiny --watch --json", "models"):
        ran = in_shell(known, f"{words} > /dev/full").failed(DiskFull)
        assert ran.err.startswith("error: the output cannot be written: "), words
    node.stop()


def test_sigterm_ends_what_a_node_does_for_a_command_as_control_c_does(
    nodes: Cluster, known: Path
) -> None:
    node = nodes.up("data", "--fetch", "none")
    nowhere = "ab" * 32
    with subprocess.Popen(
        [sys.executable, "-m", "peatnet", "get", nowhere],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(known),
        text=True,
    ) as waiting:
        try:
            node.wait_log(nowhere)
            waiting.send_signal(signal.SIGTERM)
            out, err = waiting.communicate(timeout=PATIENCE)
        finally:
            waiting.kill()
    assert (waiting.returncode, out, err) == (130, "", "")
    node.stop()


@pytest.mark.parametrize("in_background", [False, True])
def test_sigterm_while_a_deployment_is_waited_for(
    nodes: Cluster, known: Path, *, in_background: bool
) -> None:
    """A shell without job control has what it puts into the background ignore Ctrl-C; SIGTERM ends that, too."""
    node = nodes.up("data", "--fetch", "none")
    absent = "12D3KooWGC6TvWhfajpgX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
    words = [sys.executable, "-m", "peatnet", "deploy", "tiny", "--to", absent, "--wait"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_background else None
    try:
        waiting = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(known), text=True
        )
    finally:
        if in_background:
            signal.signal(signal.SIGINT, before)
    with waiting:
        try:
            assert waiting.stderr is not None
            first = waiting.stderr.readline()
            waiting.send_signal(signal.SIGTERM)
            out, err = waiting.communicate(timeout=PATIENCE)
        finally:
            waiting.kill()
    command_id = first.split()[1].rstrip(":")
    assert (waiting.returncode, out) == (130, "")
    assert f"the command goes on; `peatnet cancel {command_id}` stops it" in err
    node.stop()
