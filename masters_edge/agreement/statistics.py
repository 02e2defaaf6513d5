"""How far two scorers agree on the same responses: share, kappa, confusion. Plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass

from masters_edge.scoring.metrics import wilson_interval


@dataclass(frozen=True, slots=True)
class Agreement:
    """`confusion[rule][judge]`: responses (count) that the rule and the judge score 0 or 1."""

    confusion: tuple[tuple[int, int], tuple[int, int]]

    @classmethod
    def of(cls, rule: Sequence[bool], judge: Sequence[bool]) -> "Agreement":
        pairs = list(zip(rule, judge, strict=True))
        wrong, right = ((pairs.count((r, False)), pairs.count((r, True))) for r in (False, True))
        return cls((wrong, right))

    @property
    def scored(self) -> int:
        return sum(map(sum, self.confusion))

    @property
    def share(self) -> float | None:
        """Share of responses on which both agree; None without any."""
        return (self.confusion[0][0] + self.confusion[1][1]) / self.scored if self.scored else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of the share (Wilson)."""
        if not self.scored:
            return None
        return wilson_interval(self.confusion[0][0] + self.confusion[1][1], self.scored)

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa, `(p_o - p_e) / (1 - p_e)`: agreement beyond what the two would reach by chance, given how
        often each says 1 (Cohen 1960, eq. 1). None where both always say the same."""
        if self.share is None:
            return None
        (a, b), (c, d) = self.confusion
        chance = ((a + b) * (a + c) + (c + d) * (b + d)) / self.scored**2
        return None if chance == 1 else (self.share - chance) / (1 - chance)
