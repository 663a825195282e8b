"""What is in service on this node, and what is on its way there: three tables in peatnet.db."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from peatnet.blobs.rows import readable
from peatnet.deploy.activation import Activation, Candidate, Outcome, Standing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peatnet.blobs import Database

_SCHEMA = """
CREATE TABLE service (
    slot TEXT PRIMARY KEY,
    standing TEXT NOT NULL,
    previous TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE activations (
    slot TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    canceled INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE activation_outcomes (
    slot TEXT PRIMARY KEY,
    command TEXT NOT NULL,
    outcome TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


class ServiceTable:
    """The tables. Standings may be read by any thread and cost no disk; all else blocks on it.

    Raises:
        StorageError, DiskFull: from every method that writes; nothing is changed then.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        database.script("service-1", _SCHEMA)
        rows = database.execute("SELECT slot, standing FROM service")
        self._standings = dict(readable("service", rows, _read_standing))
        rows = database.execute("SELECT slot, previous FROM service WHERE previous IS NOT NULL")
        self._previous = dict(readable("service", rows, _read_candidate))
        # They are read again and again.
        self._unreadable: set[tuple[Any, ...]] = set()

    def standings(self) -> Mapping[str, Standing]:
        """What is in each slot."""
        return dict(self._standings)

    def previous(self, slot: str) -> Candidate | None:
        """What was in a slot before."""
        return self._previous.get(slot)

    def pending(self) -> list[Activation]:
        """The activations that have not ended. One that cannot be read is none: the links go back to what standings say."""
        rows = self._database.execute("SELECT slot, state FROM activations ORDER BY slot")
        return readable("activations", rows, _read_activation, self._unreadable)

    def put(self, activation: Activation) -> None:
        """Remember the state of an activation."""
        self._database.execute(
            "INSERT INTO activations (slot, state) VALUES (?, ?)"
            " ON CONFLICT (slot) DO UPDATE SET state = excluded.state",
            (activation.slot, _activations().dump_json(activation).decode()),
        )

    def cancel(self, slot: str, command: str | None) -> bool:
        """Note that the activation of a slot is not wanted any more; False where there is none (of this command)."""
        with self._database.transaction() as database:
            rows = database.execute("SELECT slot, state FROM activations WHERE slot = ?", (slot,))
            found = readable("activations", rows, _read_activation, self._unreadable)
            if not found or command not in {None, found[0].command}:
                return False
            database.execute("UPDATE activations SET canceled = 1 WHERE slot = ?", (slot,))
        return True

    def is_canceled(self, slot: str) -> bool:
        """Whether `cancel` was called for the activation of this slot."""
        rows = self._database.execute("SELECT canceled FROM activations WHERE slot = ?", (slot,))
        return bool(rows and rows[0][0])

    def settle(self, activation: Activation) -> Outcome:
        """An activation has ended: its standings count from now on."""
        outcome, settled = activation.outcome(), activation.settled()
        before = dict(activation.before)
        previous = dict(self._previous)
        with self._database.transaction() as database:
            for slot, standing in settled.items():
                if standing is None:
                    continue  # nothing was there, and nothing is
                old = before.get(slot)
                if old is not None and not old.candidate.is_known_as(standing.candidate):
                    previous[slot] = old.candidate
                database.execute(
                    "INSERT OR REPLACE INTO service VALUES (?, ?, ?)",
                    (slot, _standings().dump_json(standing).decode(), _text(previous.get(slot))),
                )
            database.execute("DELETE FROM activations WHERE slot = ?", (activation.slot,))
            database.execute(
                "INSERT OR REPLACE INTO activation_outcomes VALUES (?, ?, ?)",
                (activation.slot, activation.command, _outcomes().dump_json(outcome).decode()),
            )
        self._standings |= {slot: each for slot, each in settled.items() if each is not None}
        self._previous = previous
        return outcome

    def outcome(self, slot: str) -> tuple[str, Outcome] | None:
        """The command of the last activation of a slot, and how that ended."""
        rows = self._database.execute(
            "SELECT slot, command, outcome FROM activation_outcomes WHERE slot = ?", (slot,)
        )
        found = readable("activation_outcomes", rows, _read_outcome, self._unreadable)
        return found[0] if found else None

    def unload(self, slot: str) -> None:
        """What is in this slot is not known to be loaded any more."""
        standing = self._standings[slot]
        if standing.loaded:
            standing = replace(standing, loaded=False)
            text = _standings().dump_json(standing).decode()
            self._database.execute("UPDATE service SET standing = ? WHERE slot = ?", (text, slot))
            self._standings[slot] = standing

    def clear(self, slot: str) -> None:
        """Nothing is in this slot."""
        self._database.execute("DELETE FROM service WHERE slot = ?", (slot,))
        self._standings.pop(slot, None)
        self._previous.pop(slot, None)


def _text(candidate: Candidate | None) -> str | None:
    return None if candidate is None else _candidates().dump_json(candidate).decode()


def _read_standing(slot: str, text: str) -> tuple[str, Standing]:
    return slot, _standings().validate_json(text)


def _read_candidate(slot: str, text: str) -> tuple[str, Candidate]:
    return slot, _candidates().validate_json(text)


def _read_activation(_slot: str, text: str) -> Activation:
    return _activations().validate_json(text)


def _read_outcome(_slot: str, command: str, text: str) -> tuple[str, Outcome]:
    return command, _outcomes().validate_json(text)


# Made late and once: building them takes a while.


@cache
def _activations() -> TypeAdapter[Activation]:
    return TypeAdapter(Activation)


@cache
def _candidates() -> TypeAdapter[Candidate]:
    return TypeAdapter(Candidate)


@cache
def _outcomes() -> TypeAdapter[Outcome]:
    return TypeAdapter(Outcome)


@cache
def _standings() -> TypeAdapter[Standing]:
    return TypeAdapter(Standing)
