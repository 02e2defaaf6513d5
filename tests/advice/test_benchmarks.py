"""What is advised about measuring and its reports: names, units and addresses that work, files to remove or make."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from masters_edge.benchmarks import Settings, devices, job, measure, peers, protocol, results, suites
from masters_edge.benchmarks.devices import _adb, _copying, _openssh, _replies, browser, ssh
from masters_edge.benchmarks.page import https, server
from masters_edge.benchmarks.peers import bundle as bundle_peer
from masters_edge.benchmarks.peers import in_browser
from masters_edge.benchmarks.protocol import Subject
from masters_edge.benchmarks.report import budget, gather, report, training
from masters_edge.data.records import Question
from masters_edge.scoring import metrics
from tests import pictures
from tests.advice import follows, said
from tests.benchmarks import sample
from tests.export import bundles
from tests.hostile import test_boards as boards
from tests.page.adb_stand_in import Phone, standing_in


def last_word(sentence: object) -> str:
    """What a sentence offers at its end: 'did you mean X', or the last of a list."""
    return str(sentence).split()[-1].strip("'")


@follows(
    "is no duration; write it as 30s, 10m or 1h",
    "there is nothing to measure; name at least one bundle or checkpoint",
    "two subjects are called {}; give each a name of its own",
    "measure.py: {}: there is no role {}; use one of: {}",
    "latency questions and threads must each be at least 1",
    "sustaining for {} seconds can't be; give 0 or more",
)
def test_what_is_to_be_measured_and_for_how_long() -> None:
    with said("write it as 30s, 10m or 1h"):
        measure.seconds_of("half an hour")
    assert [measure.seconds_of(text) for text in ("30s", "10m", "1h")] == [30, 600, 3600]
    one, other = Subject("a", "exported", Path("a")), Subject("b", "exported", Path("b"))
    with said("name at least one bundle"):
        measure._check([], Settings())
    with said("give each a name of its own"):
        measure._check([one, one], Settings())
    measure._check([one, other], Settings())
    with said("use one of: ") as caught:
        measure._check([replace(one, role="pupil")], Settings())  # type: ignore[arg-type]
    measure._check([replace(one, role=last_word(caught.value))], Settings())  # type: ignore[arg-type]
    for wrong, right in (({"threads": 0}, {"threads": 1}), ({"latency_questions": 0}, {"latency_questions": 1})):
        with said("must each be at least 1"):
            measure._check([one], Settings(**wrong))
        measure._check([one], Settings(**right))
    with said("give 0 or more"):
        measure._check([one], Settings(sustain_s=-1))
    measure._check([one], Settings(sustain_s=0))


@follows(
    "devices/__init__.py: there is no device {}; {}",
    "there is no kind of subject {}; {}",
    "is no address of a board; write ssh://user@board or ssh://user@board:port",
    "has no name behind the colon; write {}, or {}:NAME",
    "{} measures bundles, and {} is none; measure it with --device local",
)
def test_addresses_that_are_some() -> None:
    for wrong in ("locl", "nothing"):
        with said("there is no device") as caught:
            devices.module_of(wrong)
        assert devices.module_of(last_word(caught.value))
    with said("there is no kind of subject") as caught:
        peers.module_of("bundel")
    assert peers.module_of(last_word(caught.value))
    with said("write ssh://user@board or ssh://user@board:port"):
        _openssh.Address.parse("ssh://user@board:port")
    assert _openssh.Address.parse("ssh://user@board").user == "user"
    assert _openssh.Address.parse("ssh://user@board:22").port == 22
    with said("write browser, or browser:NAME"):
        browser.name_of("browser:")
    assert (browser.name_of("browser"), browser.name_of("browser:NAME")) == (None, "NAME")
    teacher = Subject("teacher", "teacher", Path("teacher"), "checkpoint")
    with said("measure it with --device local"):
        measure._measurable([teacher], "ssh://board", None)
    assert measure._measurable([teacher], "local", None) == [teacher]


@follows(
    "there is no bundle {}; make one with: masters-edge export",
    "a browser has no backend {}; use one of: auto, {}",
    "{} is a bundle for {}; a browser runs {}: export the student for one of them, or measure this one with --device",
    "the browser's runtime does not know {}; it knows {}; measure it with --device local",
)
def test_bundles_that_a_browser_or_this_machine_runs(tmp_path: Path) -> None:
    good = bundles.exported("smolvlm", "fp32", splitting=True)
    with said("make one with: masters-edge export"):
        bundle_peer.fingerprint(str(tmp_path / "none"))
    assert bundle_peer.fingerprint(str(good))
    with said("use one of: auto, ") as caught:
        in_browser.packages(str(good), "openvino")
    assert in_browser.packages(str(good), last_word(caught.value))
    here = devices.peer_of("local", "bundle")
    assert here is not None
    for file, change, piece in (
        ("manifest.json", {"target": "gguf"}, "a browser runs onnx and onnx_portable"),
        ("config.json", {"masters_edge_model_type": "llava_onevision"}, "it knows smolvlm"),
    ):
        (tmp_path / file).mkdir()
        for name in ("manifest.json", "config.json"):
            found = json.loads((good / name).read_text())
            (tmp_path / file / name).write_text(json.dumps(found | (change if name == file else {})))
        with said(piece):
            in_browser.packages(str(tmp_path / file), "auto")
        assert here.packages(str(tmp_path / file), "auto")
    in_browser.check(str(good))


@follows(
    "--budget: {} is no limit; use some of {}, {}",
    "--budget: {} is limited twice; give it once",
    "--budget: {}={} is no figure with a unit of it ({}); write it {}",
    "--budget: {}={} leaves room for nothing; give a figure above 0",
    "a budget chooses among exported files, and none was measured; make some with: masters-edge export",
)
def test_a_budget_as_it_is_written(tmp_path: Path) -> None:
    for wrong, right, piece in (
        ("speed=3", "ttft=3ms", "use some of ttft"),
        ("ttft=1s,ttft=2s", "ttft=1s", "give it once"),
        ("size=20ms", "size=20MB", "(B, kB, MB"),
        ("size=0MB", "size=1MB", "give a figure above 0"),
    ):
        with said(piece):
            budget.parse(wrong)
        assert len(budget.parse(right)) == 1
    assert budget.parse(last_word(budget._EXAMPLE))
    path = tmp_path / "results.json"
    for role, words in (("teacher", "make some with: masters-edge export"), ("exported", "")):
        results.write(path, results.Results(measurements=(sample.measurement(role=role),)))
        found = gather.gather([path])
        if words:
            with said(words):
                budget.choose(found, budget.parse("answer=1s"))
        else:
            assert budget.choose(found, budget.parse("answer=1s"))


@follows(
    "suites/__init__.py: there is no suite {}; {}",
    "there is no suite {}, nor a file or folder of that name; {}",
    "suite {} is built in and has neither splits nor columns to choose; leave them out",
    "suite {}: there are no questions in it; give at least one with an answer",
    "suite {}: {} of {} questions have no answer",
    "suite {}: question {} asks for a judge, but bench scores by rules alone; give it a metric: {}",
    "suite {}: two questions share an id; give each its own",
    "suite {}: asking {} questions measures nothing; ask at least 1",
    "suite {}: no image of it can be read ({}); mend them",
)
def test_suites_that_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "p.png"
    pictures.noise((40, 30)).save(picture)
    a = Question("a", "what?", picture.read_bytes(), "a", "red")
    suite = suites.from_questions([a], "exact_match")
    names = suites.names()
    for wrong in ("easy-vaq", "nothing"):
        with said("there is no suite") as caught:
            suites.load(wrong)
        assert last_word(caught.value) in names
    (tmp_path / "own.jsonl").write_text('{"image": "p.png", "question": "what?", "answer": "red"}\n')
    with said("did you mean 'own.jsonl'") as caught:
        suites.open_suite("owm.jsonl", base=tmp_path)
    assert len(suites.open_suite(last_word(caught.value), base=tmp_path).questions) == 1
    monkeypatch.setattr(suites, "load", lambda name: suite)
    with said("leave them out"):
        suites.open_suite("easy-vqa", split="test", base=tmp_path)
    assert suites.open_suite("easy-vqa", base=tmp_path).questions == suite.questions
    with said("give at least one with an answer"):
        suites.from_questions([], "exact_match")
    bare, judged = replace(a, id="b", answer=None), replace(a, id="c", metric=metrics.JUDGE)
    with said("add their answers or leave them out"):
        suites.from_questions([a, bare], "exact_match")
    with said("give it a metric: ") as caught:
        suites.from_questions([a, judged], "exact_match")
    with said("two questions share an id"):
        suites.from_questions([a, a], "exact_match")
    rows = [a, replace(bare, answer="red"), replace(judged, metric=last_word(caught.value)), replace(a, id="d")]
    made = suites.from_questions(rows, "exact_match")
    assert len(made.questions) == 4
    with said("ask at least 1"):
        made.take(0)
    assert len(made.take(1).questions) == 1
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:40])
    cut = [Question("q", "what?", tmp_path / "cut.png", "cut", "red")]
    with said("mend them"):
        suites.from_questions(cut, "exact_match").readable()
    (tmp_path / "cut.png").write_bytes(picture.read_bytes())
    assert suites.from_questions(cut, "exact_match").readable()[1] == {}


@follows(
    "there is no results file {}; make one with: masters-edge bench",
    "{} is damaged, it is no JSON ({}); remove it, and measure again with: masters-edge bench",
    "{} has results schema {}, this masters-edge reads {}; {}",
    "{} is damaged at {}: {}; remove it, and measure again",
    "results.py: {} can't be written ({}); the old one is untouched",
    "{} holds no results.json (nor bench/results.json); make one with: masters-edge bench",
    "{} holds no measurement yet; make one with: masters-edge bench",
)
def test_results_that_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench` writes by `update`, which leaves a file alone that it can't read: it has to be removed first."""
    path = tmp_path / "bench" / "results.json"

    def bench() -> object:
        return results.update(path, lambda now: now.with_measurement(sample.measurement()))

    for ask, piece in (
        (lambda: gather.gather([tmp_path]), "holds no results.json"),
        (lambda: results.read(path), "make one with: masters-edge bench"),
    ):
        with said(piece):
            ask()
    bench()
    assert gather.gather([tmp_path]).entries and results.read(path).measurements
    for content, piece in (
        ("{", "remove it, and measure again with: masters-edge bench"),
        ('{"schema_version": 1}', "remove it, and measure again"),
        ('{"schema_version": 3, "measurements": [{}]}', "remove it, and measure again"),
    ):
        path.write_text(content)
        with said(piece):
            bench()
        path.unlink()
        bench()
        assert results.read(path).measurements
    results.write(path, results.Results())
    with said("holds no measurement yet"):
        gather.gather([tmp_path])
    bench()
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("os.replace", full)
        with said("the old one is untouched"):
            results.write(path, results.Results())
    assert results.read(path).measurements


@pytest.mark.wide  # seconds: a report is drawn
@follows("there is no run folder {}; give the folder that masters-edge distill wrote")
def test_the_folder_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path, sample.results())
    with said("give the folder that masters-edge distill wrote"):
        report(path, tmp_path / "none", tmp_path / "out")
    assert report(path, sample.write_run(tmp_path / "run"), tmp_path / "out").html.is_file()


@follows(
    "training.py: {}, line {}: this is no JSON ({}); remove the line to go on",
    "training.py: {}, line {}: expected an object of metrics, found {}",
    "training.py: {}, line {}: step is {}, expected a whole number of steps",
)
def test_a_line_that_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for wrong, piece in (
        ("{oops", "remove the line to go on"),
        ("[1]", "expected an object of metrics"),
        ('{"step": "a"}', "expected a whole number of steps"),
    ):
        path.write_text(f'{{"step": 1}}\n{wrong}\n{{"step": 3}}\n')
        with said(piece):
            training.read(path)
        path.write_text("".join(line for line in path.read_text().splitlines(True) if wrong not in line))
        training.read(path)


@follows(
    "another masters-edge command measures {}; wait for its end",
    "benchmarks/protocol.py: question {}: there is no image file {}; mend the path or leave the question out",
    "is no results file of masters-edge: it has no schema_version; give another one",
)
def test_the_end_of_another_command_and_a_path_that_is_mended(tmp_path: Path) -> None:
    subject, folder = Subject("a", "exported", Path("a")), tmp_path / "jobs" / "job"
    with measure._alone(folder, subject), said("wait for its end"), measure._alone(folder, subject):
        pass
    with measure._alone(folder, subject):
        pass
    (tmp_path / "images").mkdir()
    question = Question("q", "what?", tmp_path / "none.png", "p")
    with said("mend the path or leave the question out"):
        protocol._image_file(tmp_path, question, {})
    pictures.noise((4, 4)).save(tmp_path / "p.png")
    assert protocol._image_file(tmp_path, replace(question, image=tmp_path / "p.png"), {})
    (tmp_path / "other.json").write_text("[]")
    with said("give another one"):
        gather.gather([tmp_path / "other.json"])
    results.write(tmp_path / "results.json", sample.results())
    assert gather.gather([tmp_path / "results.json"]).entries


@follows(
    "the certificate can't be kept in {} ({}); set XDG_CACHE_HOME to a folder that can be written to, or leave HTTPS",
    "this machine is in no network that a device could reach it by; join one, or leave --lan out",
)
def test_a_page_that_can_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with said("set XDG_CACHE_HOME"):
        https.certificate(["localhost"], tmp_path / "file" / "page")
    assert https.certificate(["localhost"], tmp_path / "folder" / "page")[0].is_file()
    wanted = devices.Wanted(port=0)
    monkeypatch.setattr(server, "addresses", lambda where: ["127.0.0.1"])
    with said("leave --lan out"), server.serving(None, replace(wanted, lan=True)):
        pass
    with server.serving(None, wanted) as (_, at):
        assert at.url


@pytest.mark.wide  # seconds: every word to a phone starts a program
@follows(
    "there is no phone {}; {}; check the number and the cable{}",
    "no phone is connected; switch on USB debugging",
    "several phones are connected: {}; choose with --device adb:{}",
    "measuring over adb needs the program adb; install Android's platform tools",
    "no browser on the phone {} opened the link ({}); install Chrome there, and try again",
)
def test_phones_that_are_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_adb, "APPEARS_S", 0)
    path = "/usr/bin:/bin"
    monkeypatch.setenv("PATH", str(tmp_path))
    with said("install Android's platform tools"):
        _adb.phone()
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    with standing_in(tmp_path) as stand_in:
        with said("switch on USB debugging"):
            _adb.phone()
        links: list[str] = []
        stand_in.plug(Phone("R5CT", browser=links.append))
        assert _adb.phone().serial == "R5CT"
        with said("check the number and the cable"):
            _adb.phone("HT4C")
        bare = stand_in.plug(Phone("HT4C", packages=()))
        assert _adb.phone("HT4C").serial == "HT4C"
        with said("choose with --device ") as caught:
            _adb.phone()
        assert _adb.phone(last_word(caught.value).partition(":")[2]).serial == "R5CT"
        with said("install Chrome there, and try again"):
            _adb.phone("HT4C").open("http://localhost/")
        bare.packages, bare.browser = ("com.android.chrome",), links.append
        _adb.phone("HT4C").open("http://localhost/")
        assert links == ["http://localhost/"]


@follows(
    "ssh.py: {} changed while it was read; run the same command again",
    "_copying.py: {} changed while it was copied; run the same command again",
    "_copying.py: {} changed while it was fetched; run the same command again",
)
def test_what_changed_is_read_again(tmp_path: Path) -> None:
    bundle, weights = tmp_path / "bundle", tmp_path / "bundle" / "weights.bin"
    bundle.mkdir()
    weights.write_bytes(b"1")
    subject, before = Subject("a", "exported", bundle), bundle_peer.fingerprint(str(bundle))
    (old,) = ssh._bundle_files(subject, before)
    weights.write_bytes(b"23")
    with said("run the same command again"):
        ssh._bundle_files(subject, before)
    with said("run the same command again"):
        copied(old)
    (new,) = ssh._bundle_files(subject, bundle_peer.fingerprint(str(bundle)))
    assert copied(new) == b"23"
    with said("run the same command again"):
        boards.fetch(boards.REPLIES["another content"][1], tmp_path)
    boards.fetch(boards.lines({"files": [boards.file(job.DONE)]}, b"x", boards.ok({})), tmp_path)
    assert (tmp_path / "raw" / job.DONE).read_bytes() == b"x"


def copied(file: _copying.BoardFile) -> bytes:
    wanted = _replies.Missing(sha256=file.sha256, bytes=file.size, offset=0)
    return b"".join(_copying._content([wanted], {file.sha256: file}, lambda done, total: None))
