"""What to say when sources fail: one error out of many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.errors import HttpSourceError, IntegrityError, NoSource, PeatnetError, PeerLost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_NAMED = 3


def most_telling(group: BaseExceptionGroup[PeatnetError]) -> PeatnetError:
    """The one error of a group that says most: one that is not NoSource before one that is."""
    leaves = list(_leaves(group))
    return min(leaves, key=lambda each: isinstance(each, NoSource))


def _leaves(group: BaseExceptionGroup[PeatnetError]) -> Iterator[PeatnetError]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


def without_frames(error: PeatnetError) -> PeatnetError:
    """The same error without where it came from: the frames there would keep all that they had in use, buffers among it."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def give_up_error(
    *,
    blob: str,
    missing: int,
    n_chunks: int,
    waited: float,
    lost: Mapping[str, PeatnetError],
    alive: Sequence[str],
) -> PeatnetError:
    """The error that a download gives up with.

    Its class is that of the errors by which sources were lost, where that is one and the same and says more
    than NoSource (all HTTP servers refused, all senders were corrupt).

    Args:
        blob: the hash, in hex.
        missing: chunks not there.
        n_chunks: chunks in all.
        waited: seconds.
        lost: why each source was lost, by its name.
        alive: sources that live but have none of the missing chunks.
    """
    message = f"{blob[:16]}...: no source has the {missing} of {n_chunks} chunks still missing"
    if waited:
        message += f" (waited {waited:g} s)"
    reasons = list(lost.values())[-_NAMED:]
    if reasons:
        message += "; " + "; ".join(each.message for each in reasons)
    if len(lost) > _NAMED:
        message += f"; and {len(lost) - _NAMED} more"
    hint = next((each.hint for each in reasons if each.hint), None)
    hint = hint or "what was fetched is kept; try again when a node that has the model is up"
    kinds = {type(each) for each in lost.values()}
    if not alive and len(kinds) == 1:
        (kind,) = kinds
        if kind in (HttpSourceError, IntegrityError, PeerLost):
            return kind(message, hint=hint)
    return NoSource(message, hint=hint)
