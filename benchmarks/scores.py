"""What `bench` found for a run's checkpoints, for the model card of its bundles."""

from datetime import datetime

from masters_edge.benchmarks import results
from masters_edge.bundle.origin import Score
from masters_edge.common.display import say
from masters_edge.common.errors import UserError
from masters_edge.run.folder import Run


def of_run(run: Run) -> list[Score]:
    """What `bench` found for the run's checkpoints since the student was finished; a broken file is said, not read."""
    path = run.folder / "bench" / "results.json"
    if not path.exists():
        return []
    try:
        found = results.read(path).measurements
    except UserError as error:
        say(f"the model card goes without measured scores: {error}")
        return []
    ended = datetime.fromisoformat(run.ended("ended")["ended"].replace("Z", "+00:00"))
    scores: dict[tuple[str, str], Score] = {}  # one for each checkpoint and suite, whatever else was changed in between
    for m in found:
        if m.kind == "checkpoint" and m.started >= ended and m.suite is not None and m.accuracy is not None:
            scores[m.role, m.suite.name] = Score(
                of=m.role, questions=m.suite.name, per_cent=round(m.accuracy.per_cent, 2), asked=m.accuracy.asked
            )
    return list(scores.values())
