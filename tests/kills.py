"""Kill runs at random moments, and see that each ends as the undisturbed one, bit for bit.

    python -m tests.kills --kills 100 --seed 7

Every run goes through all that `distill` does: a teacher's norms and mask ladder, the split, labels by the teacher,
responses and their scores, training, checkpoints, a student between two phases and the last one. A process is forked
off this one, which has the libraries loaded, so that kills hit the work and not the imports; nothing else about the
command changes. Prints a line of JSON: kills, how many hit what, runs, seconds.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests import tiny
from tests.conftest import TINY_RECIPE

OVERRIDES = (
    "train.phases=[{objective: distill, steps: 30}, {objective: joint, steps: 30}]",
    "train.save_every=3",
    "train.log_every=3",
    "train.eval_every=15",
    "mask={r_max: auto, score: activation, calibration_questions: 4}",
    "responses.split=auto",
    "reward.policy=auto",
)
DOING = {"-": "starting, measuring or in between", "g": "generating", "s": "scoring", "t": "training", "w": "saving"}


def forked(home: Path, run_dir: str) -> int:
    """The process id of a `masters-edge distill` in `home`, its output in `<run_dir>.log`."""
    (home / "moment").write_text("-")
    pid = os.fork()
    if pid:
        return pid
    try:
        os.chdir(home)
        log = os.open(f"{run_dir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["masters-edge", "distill", "tiny.yaml", *OVERRIDES, f"run_dir={run_dir}"]
        from tests import moments  # keeps what it is doing in the file `moment`

        assert moments.MOMENTS.keys() < DOING.keys()
        from masters_edge.cli import main

        main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(pid: int, seconds: float | None = None) -> int | None:
    """Its exit status; None where it is still there after so many seconds."""
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def what_it_is(run: Path) -> dict[str, object]:
    """All of a finished run that must be the same: weights of both students, metrics without their times, choices."""
    from tests.test_distill import metrics, weights

    between = run / "phase-0-distill/student/model.safetensors"
    files = ("phase-0-distill/split.json", "phase-0-distill/responses.json", "phase-1-joint/policy.json")
    return {
        "student": weights(run),
        "between": between.read_bytes(),
        "metrics": metrics(run),
        **{name: json.loads((run / name).read_text()) for name in files},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="no new kill after so many")
    options = parser.parse_args()
    import masters_edge.distill  # noqa: F401  # loaded before the forks

    rng, hit, runs, started = random.Random(options.seed), Counter[str](), 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="masters-edge-kills-") as place:
        home = Path(place)
        (home / "tiny.yaml").write_text(TINY_RECIPE)
        if not (maker := os.fork()):  # this process itself never computes: its threads would be missing in the forks
            tiny.smolvlm(home / "student", seed=1)
            tiny.smolvlm(home / "teacher", seed=2)
            os._exit(0)
        assert ended(maker) == 0
        began = time.monotonic()
        assert ended(forked(home, "whole")) == 0, (home / "whole.log").read_text()
        lasts, whole = time.monotonic() - began, what_it_is(home / "whole")
        while hit.total() < options.kills and time.monotonic() - started < 60 * options.minutes:
            shutil.rmtree(home / "killed", ignore_errors=True)
            (home / "killed.log").unlink(missing_ok=True)
            runs += 1
            status = None
            while status is None:
                more = hit.total() < options.kills and time.monotonic() - started < 60 * options.minutes
                pid = forked(home, "killed")
                status = ended(pid, rng.uniform(0, 0.6 * lasts) if more else None)
                if status is None:
                    os.kill(pid, signal.SIGKILL)
                    ended(pid)
                    hit[DOING[(home / "moment").read_text()]] += 1
            assert status == 0, (home / "killed.log").read_text()
            assert what_it_is(home / "killed") == whole, f"run {runs} of seed {options.seed} is another one"
            left = [path.name for path in (home / "killed").rglob(".*.part")]
            assert not left, f"run {runs} of seed {options.seed} leaves {left}"
            print(f"run {runs}: the same after {hit.total()} kills in all", flush=True)
    seconds = round(time.monotonic() - started)
    print(json.dumps({"kills": hit.total(), **hit, "runs": runs, "seconds": seconds, "seed": options.seed}))


if __name__ == "__main__":
    main()
