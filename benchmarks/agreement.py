"""How many of a bundle's answers are, letter for letter, those of its student in PyTorch.

Every answer is kept in a file beside results.json; a bundle is compared with the measured checkpoint that it was made
of, on the same questions, whichever device either was asked on.
"""

from contextlib import suppress
from pathlib import Path

from masters_edge.benchmarks import job
from masters_edge.benchmarks.results import Agreement, Measurement, Results
from masters_edge.common import inside
from masters_edge.common.errors import UserError
from masters_edge.scoring.metrics import wilson_interval

UNMEASURED = "agreement with PyTorch: "


def with_agreements(results: Results, folder: Path) -> Results:
    """`results` with the agreement of every bundle as the answers in `folder` now have it."""
    read: dict[str, dict[str, str]] = {}

    def answers(measurement: Measurement) -> dict[str, str]:
        assert measurement.answers is not None
        if measurement.answers not in read:
            read[measurement.answers] = {}
            with suppress(UserError, KeyError, TypeError, AttributeError):  # none, or no answers
                rows = job.read_rows(inside.place(folder, measurement.answers))
                # A question that nobody could see is none on which two agree.
                rows = [row for row in rows if "unanswered" not in row]
                read[measurement.answers] = {row["id"]: row["text"].strip() for row in rows}
        return read[measurement.answers]

    found = []
    for measurement in results.measurements:
        if measurement.kind == "checkpoint" or measurement.answers is None or measurement.suite is None:
            found.append(measurement)
            continue
        agreement, reason = None, "its student wasn't asked the same questions in PyTorch"
        for peer in results.measurements:
            if _is_student_of(peer, measurement):
                said, by_peer = answers(measurement), answers(peer)
                if said and said.keys() == by_peer.keys():
                    agreement, reason = _agreement(said, by_peer), ""
                    break
                reason = f"the file of answers {measurement.answers if not said else peer.answers} is not whole"
        unmeasured = tuple(text for text in measurement.unmeasured if not text.startswith(UNMEASURED))
        if reason:
            unmeasured += (UNMEASURED + reason,)
        found.append(measurement.model_copy(update={"agreement": agreement, "unmeasured": unmeasured}))
    return results.model_copy(update={"measurements": tuple(found)})


def _is_student_of(peer: Measurement, bundle: Measurement) -> bool:
    """Whether `peer` is the checkpoint that the bundle was made of, asked the same questions."""
    return (
        peer.kind == "checkpoint"
        and peer.weights is not None
        and peer.weights == bundle.weights
        and peer.answers is not None
        and peer.suite is not None
        and bundle.suite is not None
        and peer.suite.sha256 == bundle.suite.sha256
    )


def _agreement(said: dict[str, str], by_peer: dict[str, str]) -> Agreement:
    equal, asked = sum(text == by_peer[question] for question, text in said.items()), len(said)
    low, high = wilson_interval(equal, asked)
    return Agreement(equal=equal, asked=asked, per_cent=100 * equal / asked, low=100 * low, high=100 * high)
