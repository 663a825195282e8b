"""Putting a model into service, as a state machine. Pure: it knows neither disk nor processes nor time.

The theory. A node has a *slot* for each model id: the link ``models/<id>/current``, and a *standing*, which says which
model the link should lead to and whether its loader said that it is loaded. An activation takes a *wanted* model
through

    CHECK  its header is held against its file
    SWITCH the links are set
    LOAD   its loader is run
    DONE   the standings say so

and, where one of these fails, the next candidate: the model that the command names for this case (which may belong to
another slot), then what was in the slot. What was in service is not checked again. When no candidate is left, RESTORE
sets the links to what they were before, and so it does where a candidate is in service still because no loader has run
yet: a broken header never disturbs a running model.

Crashes. Three rules make every point of a crash the same:

1. A state is on disk before what it says is done. So after a crash the state on disk is the one that was being
   carried out, or the one before it, which had been carried out whole.
2. What a state says can be done again. Links are set to what the state says, from whatever they were. A header is
   read again and a loader is run again (they are asked to bear it), and at most ``MAX_ATTEMPTS`` times, which are
   counted on disk beforehand: a model that takes the node down with it would otherwise do so for ever.
3. Standings change only with DONE, in the transaction that takes the activation away.

By 1 and 2, whoever goes on after a crash ends where an activation without one could have ended: the wanted model or
one of the others in service. By 3, the old one counts as being in service until then. The link is replaced by one
rename, and leads to an old or a new file at any moment. Only where there was no model before can there be none after.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from peatnet.errors import LocalProtocolError
from peatnet.models import ModelStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ATTEMPTS: Final = 3
"""Readings of one header, and runs of one loader for one model, that the end of the node may cut short."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model file on this disk that can be put into service.

    Attributes:
        publisher: who signed its manifest.
        model_id: its slot.
        version: of the model.
        model_type: as manifests spell it.
        format: likewise.
        path: of the file, relative to the data directory where it is below it.
        manifest_path: of its manifest as JSON, likewise.
        blob: BLAKE3 of the file, in hex; None where it is not known.
    """

    publisher: str
    model_id: str
    version: str
    model_type: str
    format: str
    path: str
    manifest_path: str | None = None
    blob: str | None = None

    def is_same(self, other: Candidate) -> bool:
        """Whether both are surely the same bytes at the same place, of the same publisher."""
        ours = (self.publisher, self.model_id, self.version, self.path, self.blob)
        theirs = (other.publisher, other.model_id, other.version, other.path, other.blob)
        return self.blob is not None and ours == theirs

    def is_known_as(self, other: Candidate) -> bool:
        """The same of candidates that may be one and the same, whose blob then need not be known."""
        return self == other or self.is_same(other)

    def __str__(self) -> str:
        return f"{self.model_id}@{self.version}"


@dataclass(frozen=True, slots=True)
class Standing:
    """What is in a slot.

    Attributes:
        candidate: what its link leads to.
        loaded: whether a loader said that it is in service, and none has run for another since.
    """

    candidate: Candidate
    loaded: bool


class Phase(StrEnum):
    """What is to be done next, or is being done."""

    CHECK = "check"
    SWITCH = "switch"
    LOAD = "load"
    RESTORE = "restore"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a candidate is not in service.

    Attributes:
        candidate: which.
        phase: in which it failed.
        reason: in words.
        lines: what its loader said last.
    """

    candidate: Candidate
    phase: Phase
    reason: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an activation ended.

    Attributes:
        wanted: the model it was about.
        status: of that model: LOADED, READY (in place, and there is no loader) or FAILED.
        in_service: what the link of its slot leads to now, or the model of another slot that was named to go back to.
        in_service_loaded: whether the loader of that one said that it is loaded.
        failures: of the wanted model, then of those that were tried instead.
    """

    wanted: Candidate
    status: ModelStatus
    in_service: Candidate | None
    in_service_loaded: bool
    failures: tuple[Failure, ...] = ()

    @property
    def reason(self) -> str | None:
        """Why the wanted model is not in service; None where it is."""
        return self.failures[0].reason if self.failures else None

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines of the loader that failed for the wanted model."""
        return self.failures[0].lines if self.failures else ()

    @property
    def rolled_back(self) -> bool:
        """Whether another model is in service instead."""
        return self.status is ModelStatus.FAILED and self.in_service is not None


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation on its way. Immutable: each event returns the next state.

    Attributes:
        command: whose order it is, in the caller's words; "" for nobody's.
        candidates: the wanted model, then those to go back to, in order.
        before: what each slot involved held when it began.
        phase: what is to be done.
        at: for which candidate; in RESTORE and DONE, the one that is in service, or the number of candidates: none of
            them, so that each slot keeps what it held.
        attempts: in CHECK, how many times its header was begun to be read; then, how many times its loader was started.
        token: marks what the loader has started; "" before the first attempt.
        disturbed: the slots for whose models a loader was started.
        failures: of the candidates so far.
        loaded: in DONE, whether a loader said that the candidate is loaded.
    """

    command: str
    candidates: tuple[Candidate, ...]
    before: tuple[tuple[str, Standing | None], ...]
    phase: Phase = Phase.CHECK
    at: int = 0
    attempts: int = 0
    token: str = ""
    disturbed: frozenset[str] = frozenset()
    failures: tuple[Failure, ...] = ()
    loaded: bool = False

    @classmethod
    def begin(
        cls,
        wanted: Candidate,
        rollback: Candidate | None,
        standings: Mapping[str, Standing],
        *,
        has_loader: bool,
        command: str = "",
    ) -> Activation:
        """The first state.

        Args:
            wanted: the model to put into service.
            rollback: the model to go back to, instead of what is in the slot.
            standings: of all slots.
            has_loader: whether there is a loader for the wanted model.
            command: whose order it is.
        """
        current = standings.get(wanted.model_id)
        candidates = [wanted]
        for other in (rollback, current.candidate if current else None):
            if other is not None and not any(other.is_same(each) for each in candidates):
                candidates.append(other)
        slots = sorted({wanted.model_id, *([rollback.model_id] if rollback else [])})
        fresh = cls(
            command, tuple(candidates), tuple((slot, standings.get(slot)) for slot in slots)
        )
        serves = current is not None and current.candidate.is_same(wanted)
        # Nothing to do but to see that the link is right.
        done = serves and current is not None and (current.loaded or not has_loader)
        return replace(fresh, phase=Phase.RESTORE) if done else fresh

    # What there is to do

    @property
    def wanted(self) -> Candidate:
        """The model that it is about."""
        return self.candidates[0]

    @property
    def slot(self) -> str:
        """The slot that it is about."""
        return self.wanted.model_id

    @property
    def candidate(self) -> Candidate | None:
        """The model that is being tried, or was found; None: no model was left."""
        return self.candidates[self.at] if self.at < len(self.candidates) else None

    def links(self) -> dict[str, Candidate | None]:
        """Where the link of each slot must lead in this state; None: there must be none."""
        links = {slot: standing.candidate if standing else None for slot, standing in self.before}
        if self.phase in {Phase.SWITCH, Phase.LOAD} and self.candidate is not None:
            links[self.candidate.model_id] = self.candidate
        return links

    def previous(self) -> Candidate | None:
        """What the candidate replaces, as its loader is told."""
        if self.at:
            return self.wanted
        standing = dict(self.before)[self.slot]
        return standing.candidate if standing else None

    @property
    def exhausted(self) -> bool:
        """CHECK, LOAD: whether it has been begun often enough."""
        return self.attempts >= MAX_ATTEMPTS

    # Events

    def checking(self) -> Activation:
        """CHECK: the header is about to be read."""
        self._must_be(Phase.CHECK)
        return replace(self, attempts=self.attempts + 1)

    def checked(self) -> Activation:
        """CHECK: the header is good."""
        self._must_be(Phase.CHECK)
        return replace(self, phase=Phase.SWITCH, attempts=0)

    def switched(self) -> Activation:
        """SWITCH: the links are as `links` says."""
        self._must_be(Phase.SWITCH)
        return replace(self, phase=Phase.LOAD)

    def starting(self, token: str) -> Activation:
        """LOAD: the loader is about to be started, and what it starts will be marked so."""
        self._must_be(Phase.LOAD)
        disturbed = self.disturbed | {self.slot, self._chosen().model_id}
        return replace(self, attempts=self.attempts + 1, token=token, disturbed=disturbed)

    def suspended(self) -> Activation:
        """LOAD: the loader was ended because the node ends in good order, which is nobody's fault."""
        self._must_be(Phase.LOAD)
        return replace(self, attempts=max(0, self.attempts - 1))

    def succeeded(self, *, loaded: bool) -> Activation:
        """LOAD: the loader said that the model is loaded, or (not ``loaded``) there is none to ask."""
        self._must_be(Phase.LOAD)
        return replace(self, phase=Phase.DONE, loaded=loaded)

    def failed(self, reason: str, lines: tuple[str, ...] = ()) -> Activation:
        """CHECK, SWITCH, LOAD: this candidate cannot be put into service."""
        self._must_be(Phase.CHECK, Phase.SWITCH, Phase.LOAD)
        failure = Failure(self._chosen(), self.phase, reason, lines)
        rest = replace(
            self, at=self.at + 1, attempts=0, token="", failures=(*self.failures, failure)
        )
        following = rest.candidate
        if following is None:
            return replace(rest, phase=Phase.RESTORE)
        if not self._was_in_service(following):
            return replace(rest, phase=Phase.CHECK)
        return replace(rest, phase=Phase.SWITCH if self.disturbed else Phase.RESTORE)

    def called_off(self, reason: str) -> Activation:
        """CHECK, SWITCH, LOAD of the wanted model: it is not wanted any more, so what was in its slot shall be there."""
        self._must_be(Phase.CHECK, Phase.SWITCH, Phase.LOAD)
        if self.at:
            raise LocalProtocolError("going back is not called off")
        failures = (*self.failures, Failure(self.wanted, self.phase, reason))
        rest = replace(self, attempts=0, token="", failures=failures)
        for at, each in enumerate(self.candidates[1:], 1):
            if self.disturbed and each.model_id == self.slot and self._was_in_service(each):
                # Its runtime may have let go of it.
                return replace(rest, phase=Phase.SWITCH, at=at)
        return replace(rest, phase=Phase.RESTORE, at=len(self.candidates))

    def restored(self) -> Activation:
        """RESTORE: the links are as `links` says, or cannot be helped."""
        self._must_be(Phase.RESTORE)
        standing = dict(self.before).get(self.candidate.model_id) if self.candidate else None
        return replace(self, phase=Phase.DONE, loaded=standing is not None and standing.loaded)

    # The end

    def settled(self) -> dict[str, Standing | None]:
        """DONE: what is in each slot involved now."""
        self._must_be(Phase.DONE)
        settled: dict[str, Standing | None] = {}
        for slot, standing in self.before:
            undisturbed = slot not in self.disturbed
            settled[slot] = standing and replace(standing, loaded=standing.loaded and undisturbed)
        if self.candidate is not None:
            settled[self.candidate.model_id] = Standing(self.candidate, self.loaded)
        return settled

    def outcome(self) -> Outcome:
        """DONE: how it ended."""
        settled = self.settled()
        status = ModelStatus.FAILED
        if self.at == 0:
            status = ModelStatus.LOADED if self.loaded else ModelStatus.READY
        standing = settled[self.candidate.model_id if self.candidate else self.slot]
        return Outcome(
            self.wanted,
            status,
            standing.candidate if standing else None,
            standing is not None and standing.loaded,
            self.failures,
        )

    def _was_in_service(self, candidate: Candidate) -> bool:
        standing = dict(self.before).get(candidate.model_id)
        return standing is not None and standing.candidate.is_known_as(candidate)

    def _chosen(self) -> Candidate:
        if self.candidate is None:
            raise LocalProtocolError(f"no candidate in phase {self.phase}")
        return self.candidate

    def _must_be(self, *phases: Phase) -> None:
        if self.phase not in phases:
            raise LocalProtocolError(f"not in phase {self.phase}")
