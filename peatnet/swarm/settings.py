"""The knobs of a swarm, with the values that suit chunks of about a MiB."""

from __future__ import annotations

from dataclasses import dataclass

from peatnet.errors import LocalProtocolError
from peatnet.swarm.events import Tier

MAX_STRIKES = 64  # pauses double with each


@dataclass(frozen=True, slots=True)
class SwarmSettings:
    """How one download behaves. All times are seconds.

    Args:
        tiers: which kinds of source may be asked at all; with HTTP alone there is no waiting for peers.
        fallback_after: how long peers may deliver nothing, or lack a chunk, before HTTP is asked.
        timeout_min: no request is given up sooner.
        timeout_max: no request is waited for longer while another source could deliver the chunk, unless all take long.
        timeout_first: what the first request to an unmeasured source gets; each one queued behind adds as much.
        timeout_slack: a request gets this many times what the source's pace makes us expect.
        crowd_slack: it gets at least this many times what requests take at present, whoever is asked.
        extensions: how often a request that nobody else could take over is given more time, twice as much
            each time, before it counts as failed.
        guess: what a chunk from an unmeasured source is supposed to take.
        in_order: ask for the first missing chunk always, for whoever reads along; costs others and us much time.
        hedge_slack: a request is overdue, and asked of a second source too, after this many times what the source's
            pace makes us expect.
        hedge_min: no request is overdue sooner.
        spare: the share of the chunks that may be asked twice, or have come twice, at any time; two may always, and in
            the endgame what is out to those that have more out than their pace allows.
        slow_factor: a peer is slow whose chunks take so many times longer than chunks usually take here.
        trial: how often a slow peer gets a request, to see whether it still is.
        horizon: how much work a source may have queued; slower sources get fewer requests.
        far_pace: what a chunk from a source that is far away is supposed to take while it is new, whatever the first ones took.
        farthest: no source counts as farther than so long a round trip, whatever is said of it.
        first_window: the most requests to a source that has delivered nothing yet.
        usual_window: the most requests to a source, but for what it delivers within `brisk`.
        brisk: work that may be queued in any case, where a source likes so many requests.
        max_strikes: failures in a row, at most 64, after which a source is dropped; requests that were out
            together fail as one.
        defer: how long a source that put off a chunk is not asked for it again.
        rest: the pause of a source after its second failure in a row; doubles with each further one.
    """

    tiers: frozenset[Tier] = frozenset(Tier)
    fallback_after: float = 5.0
    timeout_min: float = 5.0
    timeout_max: float = 60.0
    timeout_first: float = 15.0
    timeout_slack: float = 6.0
    crowd_slack: float = 3.0
    extensions: int = 3
    guess: float = 1.0
    in_order: bool = False
    hedge_slack: float = 2.0
    hedge_min: float = 1.0
    spare: float = 0.015
    slow_factor: float = 8.0
    trial: float = 10.0
    horizon: float = 0.5
    farthest: float = 2.0
    far_pace: float = 0.05
    first_window: int = 2
    usual_window: int = 8
    brisk: float = 0.05
    max_strikes: int = 5
    defer: float = 0.5
    rest: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values with which no download could work.

        Raises:
            LocalProtocolError: naming the value.
        """
        if not self.tiers:
            raise LocalProtocolError("swarm settings: tiers is empty, so no source could be asked")
        for name in (
            "timeout_min",
            "timeout_slack",
            "guess",
            "horizon",
            "first_window",
            "usual_window",
            "brisk",
            "crowd_slack",
            "far_pace",
            "hedge_slack",
            "slow_factor",
            "trial",
            "max_strikes",
        ):
            if getattr(self, name) <= 0:
                raise LocalProtocolError(f"swarm settings: {name} must be above 0")
        for name in (
            "fallback_after",
            "farthest",
            "extensions",
            "defer",
            "rest",
            "hedge_min",
            "spare",
        ):
            if getattr(self, name) < 0:
                raise LocalProtocolError(f"swarm settings: {name} must not be negative")
        if self.max_strikes > MAX_STRIKES or self.extensions > MAX_STRIKES:
            raise LocalProtocolError(
                f"swarm settings: max_strikes and extensions may be at most {MAX_STRIKES}"
            )
        if not self.timeout_min <= self.timeout_first <= self.timeout_max:
            raise LocalProtocolError(
                "swarm settings: timeout_min <= timeout_first <= timeout_max is needed"
            )
