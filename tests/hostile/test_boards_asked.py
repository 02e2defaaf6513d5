"""The same hostile boards, behind a real sshd and before `masters-edge bench --device ssh://...` as a process.

The board's Python is a stand-in that says to each op what a file beside it holds.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from masters_edge.benchmarks import machine
from masters_edge.benchmarks.devices import _board, _openssh
from tests import pictures, wide
from tests.benchmarks.sshd import Sshd, needs_sshd
from tests.export import bundles
from tests.hostile import test_boards as boards
from tests.hostile.command_line import Said, process

pytestmark = needs_sshd

PYTHON = f"""#!{sys.executable} -IS
import json, os, re, sys
here, code = os.path.dirname(os.path.abspath(__file__)), sys.argv[2]
if "version_info" in code:
    sys.exit(print("python 3 11", os.path.abspath(__file__)))
sys.stdin.buffer.read(int(re.search(r"read\\((\\d+)\\)", code)[1]))
op = json.loads(sys.stdin.buffer.readline())["op"]
sys.stdout.buffer.write(b"{_board.HELLO}\\n" + open(os.path.join(here, op), "rb").read())
sys.stdout.buffer.flush()
while op == "hold" and os.read(0, 4096):
    pass
"""
DEVICE = machine.describe() | {"name": "board"}
NOTHING = boards.lines(boards.ok({}))
# What a board says that means no harm, and measured nothing.
HARMLESS = {one.__name__: NOTHING for one in _board.OPS} | {
    "hold": boards.lines({"version": [3, 11], "running": []}),
    "plan": boards.lines(boards.ok({"missing": []})),
    "ask": boards.lines(boards.ok(boards.DESCRIBED | {"device": DEVICE})),
    "measure": boards.lines({"event": "done"}, boards.ok({"status": 0, "said": ""})),
    "fetch": boards.lines({"files": []}, boards.ok({})),
}
OPS = {"hold": "hold", "ready": "ask", "plan": "plan", "fetch": "fetch", "measure": "measure"}
FAST = ["a problem of escapes", "out of the folder", "an end of escapes"]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    folder = tmp_path_factory.mktemp("board")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    made = Sshd(folder, {"PATH": f"{folder}/bin:/usr/bin:/bin"})
    made.start()
    yield made
    made.close()


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """A suite of one question, in a folder of its own."""
    folder = tmp_path / "one" / "two" / "three"  # so that a path that climbs stays within tmp_path
    folder.mkdir(parents=True)
    pictures.noise((40, 30)).save(folder / "p.png")
    line = {"image": "p.png", "question": "what?", "answer": "red"}
    (folder / "questions.jsonl").write_text(json.dumps(line) + "\n")
    return folder / "questions.jsonl"


def bench(board: Sshd, asked: Path, bundle: Path | None = None, **said: bytes) -> Said:
    bundle = bundle or bundles.exported("smolvlm", "fp32", splitting=True)
    for op, content in (HARMLESS | said).items():
        (board.folder / "bin" / op).write_bytes(content)
    words = ["bench", bundle, "--device", board.address, "--suite", asked, "--no-cases"]
    return process(words, asked.parent, {_openssh.CONFIG: str(board.config)})


@pytest.mark.parametrize("case", wide.cells(boards.REPLIES, FAST))
def test_bench_says_one_sentence(case: str, board: Sshd, asked: Path, tmp_path: Path) -> None:
    ask, reply, words = boards.REPLIES[case]
    bench(board, asked, **{OPS[ask.__name__]: reply}).refused(words)
    assert {path.name for path in tmp_path.rglob("*")} & {"authorized_keys", "x"} == set()


@pytest.mark.wide
def test_a_link_in_a_bundle_goes_to_no_board(board: Sshd, asked: Path, tmp_path: Path) -> None:
    (tmp_path / "id_rsa").write_text("PRIVATE KEY")
    bundle = shutil.copytree(bundles.exported("smolvlm", "fp32", splitting=True), tmp_path / "bundle")
    (bundle / "notes.txt").symlink_to("../id_rsa")
    bench(board, asked, bundle).refused("notes.txt is a link out of the folder")
