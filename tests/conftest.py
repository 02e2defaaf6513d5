"""Shared by all tests: one tiny student and teacher of one family, and a recipe that distils them in seconds.

And what makes a run end, with every lost test named, whatever dies or hangs in it: `ByFile` gives a lost worker's files
to others, and a process that is at one test for longer than pyproject.toml's `faulthandler_timeout` ends itself.
"""

import atexit
import faulthandler
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import NodeManager, WorkerController

SLOW_TIMES = 4  # a slow test's time limit, in limits of the others
WORKERS = pytest.StashKey[list[WorkerController]]()
LOST = pytest.StashKey[dict[str, str]]()  # a worker that died, and how
STDERR = pytest.StashKey[int]()


def has_amx(cpuinfo: str) -> bool:
    """If a text in the form of Linux's /proc/cpuinfo is of a processor with AMX, Intel's matrix tiles."""
    flags = {flag for line in cpuinfo.splitlines() if line.startswith("flags") for flag in line.split()}
    return not flags.isdisjoint({"amx_bf16", "amx_tile"})


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# Before anything loads OpenVINO, and inherited by the tests' processes.
AMX_NOTE = ""
CPUINFO = Path("/proc/cpuinfo")
if "ONEDNN_MAX_CPU_ISA" not in os.environ and CPUINFO.exists() and has_amx(CPUINFO.read_text()):
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16"
    AMX_NOTE = (
        "This processor has AMX, where OpenVINO dies (SIGFPE) of students as tiny as the tests': AMX isn't tested, by "
        "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 (set it yourself to test it)"
    )
for folder_of in ("MASTERS_EDGE_CACHE", "MASTERS_EDGE_TESTS"):  # inherited by the tests' processes
    if folder_of not in os.environ:
        os.environ[folder_of] = tempfile.mkdtemp(prefix="masters-edge-tests-")
        atexit.register(shutil.rmtree, os.environ[folder_of], ignore_errors=True)

# Seconds until a worker that is done and doesn't end is killed; xdist's 10 are too few for torch on a busy machine.
NodeManager.EXIT_TIMEOUT = 120

# CI has so long: what would start later is skipped, and counted as such in the closing line. In seconds since 1970.
UNTIL = float(os.environ.get("MASTERS_EDGE_TESTS_UNTIL", "inf"))


TINY_RECIPE = """\
student: ./student
teachers: [./teacher]
data:
  train: {source: easy-vqa, split: train}
  test: {source: easy-vqa, split: test}
  labels: 20
  held_out: 12
  limit: 60
responses: {max_new_tokens: 4, batch_size: 32, questions_per_shard: 8}
train:
  phases: [{objective: joint, steps: 10}]
  questions_per_step: 4
  learning_rate: 1.0e-3
  log_every: 1
  eval_every: 5
  save_every: 2
  threads: 1
"""


@pytest.fixture(scope="session")
def models() -> Path:
    """A folder with `student` and `teacher`, tiny SmolVLM checkpoints with one tokenizer."""
    from tests import shared, tiny

    def make(folder: Path) -> None:
        tiny.smolvlm(folder / "student", seed=1)
        tiny.smolvlm(folder / "teacher", seed=2)

    return shared.once("models", make)


@pytest.fixture
def tiny_recipe(models: Path, tmp_path: Path) -> Path:
    """A recipe file beside links to the tiny checkpoints; runs go to `runs/` of the same folder."""
    for name in ("student", "teacher"):
        (tmp_path / name).symlink_to(models / name, target_is_directory=True)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_RECIPE)
    return path


class ByFile(LoadFileScheduling):
    """`--dist loadfile` that goes on after a crash.

    pytest-xdist 3.8.0 waits for ever there: files that a lost worker had finished go back into the queue, and whoever
    gets one has nothing to report; and a new worker gets one test, where a worker starts a test only when it knows the
    next one. It also raises KeyError for a worker that is still collecting, and runs the test that crashed again, until
    no worker is left (pytest-dev/pytest-xdist, issues 1323, 1327 and 1378, pull request 1371).
    """

    def remove_node(self, node: WorkerController) -> str | None:
        """Take a worker out that ended or died; its unfinished tests go to others. Return the test it died of."""
        files = self.assigned_work.pop(node)
        if self.collection is None:
            self.registered_collections.pop(node, None)  # tests are given out when all that live have collected
        crashed = next((test for tests in files.values() for test, done in tests.items() if not done), None)
        if crashed is not None:
            files[self._split_scope(crashed)][crashed] = True
        self.workqueue.update({file: tests for file, tests in files.items() if not all(tests.values())})
        if self.workqueue:
            for other in self.assigned_work:
                self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker files until it has two tests to do, or tell it that there are no more."""
        if self.workqueue and node not in self.registered_collections:
            return  # it gets its files when it has collected
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile | None:
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_testnodeready(node: WorkerController) -> None:
    node.config.stash[WORKERS].append(node)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController, error: object | None) -> None:
    if error:
        node.config.stash[LOST][node.gateway.id] = str(error)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[WORKERS], config.stash[LOST] = [], {}
    assert sys.__stderr__ is not None
    config.stash[STDERR] = os.dup(sys.__stderr__.fileno())  # as long as the process lives, and past pytest's capturing


def pytest_sessionstart(session: pytest.Session) -> None:
    plugins = session.config.pluginmanager
    terminal = plugins.get_plugin("terminalreporter")
    if AMX_NOTE and terminal:  # not in the header, which `-q` hides
        terminal.write_line(AMX_NOTE)
    for plugin in plugins.get_plugins():
        if type(plugin).__name__ == "WorkerInteractor" and hasattr(os, "register_at_fork"):
            # A forked child must not hold the pipe whose end tells that this worker died.
            pipe = plugin.channel.gateway._io
            os.register_at_fork(after_in_child=partial(close, [pipe.infile.fileno(), pipe.outfile.fileno()]))


def close(files: list[int]) -> None:
    """Close files by number, and forget them: a child's own children have none of them."""
    while files:
        os.close(files.pop())


def limit(config: pytest.Config, slow: bool = False) -> None:
    """End this process in pyproject.toml's `faulthandler_timeout` from now; an earlier limit no longer holds.

    By faulthandler's thread, which needs neither the GIL nor a return to Python from what hangs, and which writes
    where every thread stands.
    """
    if seconds := config.getini("faulthandler_timeout"):
        ends = config.getini("faulthandler_exit_on_timeout")
        seconds = float(seconds) * (SLOW_TIMES if slow else 1)
        faulthandler.dump_traceback_later(seconds, file=config.stash[STDERR], exit=ends)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    limit(session.config)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    limit(item.config, slow=item.get_closest_marker("slow") is not None)
    if time.time() > UNTIL:
        pytest.skip("no time left (MASTERS_EDGE_TESTS_UNTIL)")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    # Anew: where a test failed, pytest has taken the limit away.
    limit(item.config, slow=item.get_closest_marker("slow") is not None)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Fail where a worker died that was at no test: between two, or at its own end."""
    workers = session.config.stash[WORKERS]
    if not workers:  # those have limits of their own, and this process waits for them
        limit(session.config)
    result = yield
    lost = session.config.stash[LOST]
    for node in workers:
        if code := node.gateway._io.popen.poll():
            signalled = code < 0  # on POSIX
            lost[node.gateway.id] = f"signal {-code}, {signal.strsignal(-code)}" if signalled else f"exit status {code}"
    if lost and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return result


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # a worker now waits for all others; one that hangs then is killed by execnet
        faulthandler.cancel_dump_traceback_later()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not (lost := config.stash[LOST]):
        return
    died = ", ".join(f"{name} ({how})" for name, how in lost.items())
    terminalreporter.write_line(f"Workers that died: {died}", red=True)
    scheduler = getattr(config.pluginmanager.get_plugin("dsession"), "sched", None)
    files = getattr(scheduler, "workqueue", {})
    if left := sum(list(tests.values()).count(False) for tests in files.values()):
        terminalreporter.write_line(f"{left} test(s) were not run", red=True)
