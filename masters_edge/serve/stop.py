"""Cut an answer where a stop sequence begins, while it comes piece by piece."""

from collections.abc import Sequence


class Cutter:
    """Feed it pieces; it gives back what may be said. `found` tells whether a stop sequence was met."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""  # what may still turn out to be the beginning of a stop sequence
        self.found = False

    def feed(self, piece: str) -> str:
        """Take the next piece; what is certain so far and was not given before."""
        if self.found:
            return ""
        text = self._held + piece
        met = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if met:  # the one that was whole first, so that the pieces' borders don't matter
            self.found, self._held = True, ""
            return text[: min(met)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, shorter than `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
