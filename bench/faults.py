"""What goes wrong in the fault rows of `fanout`, and when."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from fleet import SOURCE

if TYPE_CHECKING:
    from fleet import FragileFleet
    from netlab import SwitchLab

VICTIM = 1


class Fault:
    """Nothing goes wrong.

    Attributes:
        victim: the sink that suffers, which is judged apart from the others; None where there is no such one.
        happened: whether it has come to pass.
    """

    victim: int | None = None

    def __init__(self) -> None:
        self.happened = True

    def prepare(self, lab: SwitchLab) -> None:
        """Change the network, before the fleet starts."""

    def step(self, fleet: FragileFleet, lab: SwitchLab) -> None:
        """Called again and again while the sinks fetch."""


class SlowSink(Fault):
    """One sink's link has a tenth of the rate, both ways."""

    victim = VICTIM

    def prepare(self, lab: SwitchLab) -> None:
        """See Fault."""
        lab.limit(VICTIM, lab.bits_per_s // 10)


class Loss(Fault):
    """Three packets in a hundred are lost."""

    def prepare(self, lab: SwitchLab) -> None:
        """See Fault."""
        lab.lose(0.03)


class KilledSink(Fault):
    """One sink is killed when it has half of the file, and started again at once."""

    victim = VICTIM

    def __init__(self) -> None:
        super().__init__()
        self.happened = False

    def step(self, fleet: FragileFleet, lab: SwitchLab) -> None:  # noqa: ARG002  # as in Fault
        """See Fault."""
        if not self.happened and fleet.have(VICTIM).bit_count() * 2 >= fleet.pieces():
            self.happened = True
            fleet.kill(VICTIM)
            fleet.restart(VICTIM)


class SourceDies(Fault):
    """The source is killed once each piece is at some sink, and does not come back."""

    def __init__(self) -> None:
        super().__init__()
        self.happened = False

    def step(self, fleet: FragileFleet, lab: SwitchLab) -> None:
        """See Fault."""
        if self.happened:
            return
        out = reduce(or_, (fleet.have(sink) for sink in range(1, lab.hosts)))
        if out.bit_count() == fleet.pieces():
            self.happened = True
            fleet.kill(SOURCE)
