"""Ask "the node of this data directory": the one that runs, or else its files, opened by this process."""

from __future__ import annotations

from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from peatnet.api.socket_path import answers, control_socket
from peatnet.errors import DataDirLocked

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.config import Config

MAX_FILES = 128
"""Files in one ``publish_all``. Whoever waits for it hears of none before all are done."""

# Another short command may hold the data directory, or a node that is just starting or stopping.
LOCK_PATIENCE_S = 5.0
_LOCK_RETRY_S = 0.05


def node_is_running(config: Config) -> bool:
    """Whether a node answers on this data directory's control socket.

    Raises:
        NodeUnreachable: there is one that this user may not ask, or that is stuck.
    """
    return answers(control_socket(config.data_dir))


def call(
    config: Config,
    verb: str,
    params: dict[str, Any],
    *,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    on_silence: Callable[[float], None] | None = None,
) -> Any:
    """Run one verb, in the running node where there is one, else in this process.

    Blocks until the verb is done. Must be called outside trio.

    Args:
        config: of the data directory that is meant.
        verb: its name.
        params: its parameters, as JSON values.
        on_progress: called with each word of progress.
        on_silence: called when the node has not begun to answer after a while; see ``ControlClient``.

    Raises:
        DataDirLocked: another process has held the data directory for 5 s, and is not a node that answers.
        KeyboardInterrupt: Ctrl-C; the verb was cancelled and has cleaned up after itself.
        PeatnetError: what the verb raised.
    """
    give_up_at = monotonic() + LOCK_PATIENCE_S
    while True:
        if node_is_running(config):
            from peatnet.api.client import ControlClient  # noqa: PLC0415  # http.client, only when needed

            client = ControlClient(control_socket(config.data_dir), on_silence)
            return client.call(verb, params, on_progress=on_progress)

        from peatnet.api.local import run_local  # noqa: PLC0415  # trio and SQLite, only when needed

        try:
            return run_local(config, verb, params, on_progress=on_progress)
        except DataDirLocked:
            if monotonic() >= give_up_at:
                raise
        sleep(_LOCK_RETRY_S)
