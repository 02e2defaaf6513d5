"""A whole tiny run: what it writes, that it learns, and that a killed one ends with the same student."""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from masters_edge import rewards
from masters_edge.common.errors import UserError
from masters_edge.distill import distill
from masters_edge.responses import store
from tests.engines.scripted import completion, scripted, spoken


def start(recipe: Path, *overrides: str, module: str = "masters_edge") -> subprocess.Popen:
    """masters-edge as a user starts it, in the recipe's folder."""
    command = [sys.executable, "-m", module, "distill", recipe.name, *overrides]
    # A test run started in the background may ignore SIGINT, and its children would inherit that.
    heard = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command,
        cwd=recipe.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heard,
    )


def weights(run: Path) -> str:
    return hashlib.sha256((run / "student" / "model.safetensors").read_bytes()).hexdigest()


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def progress(run: Path) -> int:
    """How far a run is: shards made and lines of metrics written."""
    log = run / "metrics.jsonl"
    return len(list(run.rglob("part-*.parquet"))) + (log.read_text().count("\n") if log.exists() else 0)


def kill_while(process: subprocess.Popen, home: Path, wanted: str, occurrence: int, delay: float) -> str:
    """Kill it in the n-th moment of the wanted kind; returns the kind it was in when it died ("" where it ended)."""
    seen, last = 0, ""
    while process.poll() is None and seen < occurrence:
        now = moment(home)
        seen += now == wanted != last
        last = now
        time.sleep(0.0005)
    time.sleep(delay)
    ended = process.poll() is not None
    process.kill()
    process.communicate()
    return "" if ended else moment(home)


def moment(home: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return (home / "moment").read_text()
    return ""


def kill_in_moments(recipe: Path, wanted: str, seed: int, *overrides: str) -> Counter:
    """An undisturbed run against one killed in moments of the wanted kinds, one after the other; what was hit.

    g: generating, s: scoring, t: training, w: writing a checkpoint or the student.
    """
    output, _ = (process := start(recipe, "run_dir=whole", *overrides)).communicate()
    assert process.returncode == 0, output
    whole, killed = recipe.parent / "whole", recipe.parent / "killed"
    rng, hit = random.Random(seed), Counter()
    for number, kind in enumerate(wanted):
        (recipe.parent / "moment").unlink(missing_ok=True)
        process = start(recipe, "run_dir=killed", *overrides, module="tests.moments")
        found = kill_while(process, recipe.parent, kind, rng.randint(1, 2), rng.uniform(0, 0.006))
        assert found, f"seed {seed}: ended before kill {number + 1} ({kind})"
        hit[found] += 1
    output, _ = (process := start(recipe, "run_dir=killed", *overrides)).communicate()
    assert process.returncode == 0, output
    assert weights(whole) == weights(killed), f"seed {seed}, hit {hit}"
    assert metrics(whole) == metrics(killed), f"seed {seed}, hit {hit}"
    assert not list(killed.rglob(".*.part"))
    return hit


@pytest.mark.wide
def test_killed_run_ends_with_the_same_student(tiny_recipe: Path) -> None:
    kill_in_moments(tiny_recipe, random.choice(["gt", "gw", "st", "sw"]), int(time.time()))


@pytest.mark.wide
def test_an_interrupted_run_says_how_to_go_on(tiny_recipe: Path) -> None:
    process = start(tiny_recipe, "train.phases.0.steps=200")
    while process.poll() is None and progress(tiny_recipe.parent / "runs/tiny") < 1:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130 and "the same command goes on where it stopped" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("teacher_logits", ["live", "cached"])
def test_killed_often_ends_with_the_same_student(tiny_recipe: Path, teacher_logits: str) -> None:
    """Two phases; of the kills at least four hit each kind of moment."""
    phases = "train.phases=[{objective: distill, steps: 40}, {objective: joint, steps: 40}]"
    wanted = "gsgsgsgs" + "twtwtwtw" + "gsgsgs" + "twtwtwtw"
    hit = kill_in_moments(tiny_recipe, wanted, int(time.time()), phases, f"train.teacher_logits={teacher_logits}")
    print(f"{hit.total()} kills: {dict(hit)}")
    assert hit.total() == 30 and all(hit[kind] >= 4 for kind in "gstw"), hit


def test_a_run_writes_all_it_promises(tiny_recipe: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    run = distill(tiny_recipe)
    assert run.finished and run.folder == Path("runs/tiny")
    info = run.info()
    assert info["seed"] == 0 and info["versions"]["torch"]
    assert set(info["fingerprints"]) == {"student", "teachers", "data"}
    lines = metrics(run.folder)
    ratios = [line["mask_ratio"] for line in lines if "jsd" in line]
    assert ratios == [0.2, 0.2, 0.15, 0.15, 0.1, 0.1, 0.05, 0.05, 0.0, 0.0]
    assert [line["step"] for line in lines if "eval_accuracy" in line] == [0, 5, 10]
    jsd = [line["jsd"] for line in lines if "jsd" in line]
    assert sum(jsd[-3:]) < sum(jsd[:3])
    names = {path.name for path in run.student.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert {"processor_config.json", "chat_template.jinja", "generation_config.json"} <= names
    assert list((run.folder / "tensorboard").rglob("events.*"))

    from masters_edge.families import load_model, load_processor

    assert load_model(str(run.student)).config.model_type == "smolvlm" and load_processor(str(run.student)).tokenizer

    rows = [row for path in (run.folder / "phase-0-joint/responses").rglob("*.parquet") for row in store.read(path)]
    end = load_processor(str(run.student)).tokenizer.eos_token_id
    by_group: dict = {}
    for row in rows:
        by_group.setdefault((row["stage"], row["question_id"]), []).append(row)
    assert {row["ratio"] for row in rows} == {0.2, 0.15, 0.1, 0.05, 0.0}
    assert {row["label_source"] for row in rows} == {"label", None}  # this teacher's own answers are all cut
    for group in by_group.values():
        assert sum(row["count"] for row in group) == 8
        assert len({tuple(row["token_ids"]) for row in group}) == len(group)
        scores = rewards.score(group, run.recipe().reward)
        assert scores.r_distill.max() == 1.0
        np.testing.assert_allclose(scores.reward, [row["r_acc"] or 0.0 for row in group] + scores.r_distill)
        for row in group:
            assert len(row["log_probs"]) == len(row["token_ids"]) <= 4
            assert row["cut"] == (row["token_ids"][-1] != end)
            scorer = "rule:cut" if row["cut"] else "rule:exact_match"
            assert row["scorer"] == (scorer if row["label"] else None) and not (row["cut"] and row["r_acc"])
    summary = json.loads((run.folder / "phase-0-joint/responses.json").read_text())
    cut = sum(row["count"] for row in rows if row["cut"])
    assert 0 < cut == summary["cut"] and summary["student_cut"] > 0 and summary["teacher_cut"] > 0

    screen = " ".join(capsys.readouterr().out.split())
    assert f"{cut:,} cut by responses.max_new_tokens, which count as wrong" in screen
    assert re.search(r"(\d+) of the teacher's own \1 answers are no labels, since they are empty or were cut", screen)
    assert distill(tiny_recipe).finished
    assert "is finished: nothing to do" in capsys.readouterr().out
    before, lines = weights(run.folder), metrics(run.folder)
    shutil.rmtree(run.student)  # as if killed between the last step and the student
    (run.folder / "finished.json").unlink()
    assert distill(tiny_recipe).finished
    assert weights(run.folder) == before and metrics(run.folder) == lines
    with pytest.raises(UserError, match="holds a run with another seed"):
        distill(tiny_recipe, ["seed=3"])


@pytest.mark.wide
@pytest.mark.parametrize("objective", ["distill", "reward", "labels"])
def test_each_objective_trains(tiny_recipe: Path, monkeypatch, objective: str) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    run = distill(tiny_recipe, [f"train.phases.0.objective={objective}", "data.labels=60"])
    lines = metrics(run.folder)
    assert ("jsd" in lines[1]) == (objective == "distill")
    assert ("kl_reference" in lines[1]) == (objective == "reward")
    if objective == "labels":
        losses = [line["loss"] for line in lines if "loss" in line]
        assert losses[-1] < losses[0]
        assert not (run.folder / "phase-0-labels/responses").exists()


@pytest.mark.parametrize("teacher_logits", ["live", "cached"])
@pytest.mark.wide
def test_live_rewards_follow_the_student(tiny_recipe: Path, monkeypatch, teacher_logits: str) -> None:
    """At the first step the student is the one that the responses were scored with; later it isn't."""
    monkeypatch.chdir(tiny_recipe.parent)
    overrides = [f"train.teacher_logits={teacher_logits}", "train.teacher_top_k=352", "train.learning_rate=1e-2"]
    overrides += ["train.phases.0.objective=reward", "reward.policy=positive", "mask.r_max=0", "train.log_every=1"]
    once = metrics(distill(tiny_recipe, ["run_dir=once", *overrides]).folder)
    live = metrics(distill(tiny_recipe, ["run_dir=live", *overrides, "reward.live=true"]).folder)
    once, live = ([line["r_distill"] for line in lines if "r_distill" in line] for lines in (once, live))
    assert live[0] == pytest.approx(once[0], abs=1e-3)  # stored log-probabilities are float16
    assert max(abs(a - b) for a, b in zip(live[1:], once[1:])) > 0.01


@pytest.mark.wide
def test_what_is_auto_is_chosen_before_training_and_kept(tiny_recipe: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    auto = [
        "reward.policy=auto",
        "data.labels=all",
        "responses.split=auto",
        "mask.r_max=0",
        "responses.temperature=0.01",
    ]
    auto += ["train.phases.0.steps=4", "train.save_every=2"]
    run = distill(tiny_recipe, auto)
    folder = run.folder / "phase-0-joint"
    policy, split = (json.loads((folder / name).read_text()) for name in ("policy.json", "split.json"))
    assert policy["policy"] == "truncated_is"  # a random teacher is never right, and every question has a label
    # Cold responses: two to three of eight differ, so four to a question are enough.
    assert (split["student"], split["teacher"], split["questions_per_step"]) == (2, 2, 8)
    rows = [row for path in (folder / "responses").rglob("*.parquet") for row in store.read(path)]
    by_question = Counter()
    for row in rows:
        by_question[row["question_id"]] += row["count"]
    assert set(by_question.values()) == {4} and len(by_question) == 4 * 8
    summary = json.loads((folder / "responses.json").read_text())
    assert summary["groups"] == 4 * 8 and summary["teacher"] == 0.0
    assert "carry no advantage" in " ".join(capsys.readouterr().out.split())
    (run.folder / "finished.json").unlink()
    shutil.rmtree(run.student)
    shutil.rmtree(folder / "checkpoints")
    before = (folder / "policy.json").stat().st_mtime_ns
    assert distill(tiny_recipe, auto).finished and (folder / "policy.json").stat().st_mtime_ns == before


@pytest.mark.wide
def test_one_phase_after_the_other_and_a_chain_of_teachers(tiny_recipe: Path, models: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    (tiny_recipe.parent / "large").symlink_to(models / "student", target_is_directory=True)
    phases = "train.phases=[{objective: distill, steps: 6}, {objective: reward, steps: 6}]"
    run = distill(tiny_recipe, [phases, "teachers=[./teacher, ./large]", "mask.r_max=0.1"])
    lines = [line for line in metrics(run.folder) if "loss" in line]
    assert [line["phase"] for line in lines] == [0] * 6 + [1] * 6
    assert [line["teacher"] for line in lines] == [0, 0, 0, 1, 1, 1] * 2
    assert [line["mask_ratio"] for line in lines[:6]] == [0.1, 0.05, 0.0] * 2
    assert (run.folder / "phase-0-distill/student/model.safetensors").exists() and run.finished


def test_the_papers_term_keeps_its_kl_where_nobody_is_right(tiny_recipe: Path, monkeypatch) -> None:
    """R_acc alone, all wrong: no group has an advantage, and the loss is `jsd + beta * kl`, as METHOD 6 has it."""
    monkeypatch.chdir(tiny_recipe.parent)
    options = ["reward={distillation: false, unlabelled: none}", "data.labels=0", "train.learning_rate=0.03"]
    options += ["mask.r_max=0", "train.phases.0.steps=4", "data.held_out=0", "reward.weight=0.5"]
    lines = metrics(distill(tiny_recipe, options).folder)
    for line in lines:
        assert line["no_advantage"] == 1
        assert line["loss"] == pytest.approx(line["jsd"] + 0.5 * 0.1 * line["kl_reference"], abs=1e-5)
    assert lines[0]["kl_reference"] < 1e-5 < 0.05 < lines[-1]["kl_reference"]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.wide)])
def test_an_empty_response_is_wrong_and_no_error(tiny_recipe: Path, monkeypatch, every: bool) -> None:
    """A server whose model has said nothing when its tokens run out: now and then, or always."""
    monkeypatch.chdir(tiny_recipe.parent)
    reply = lambda body, number: completion("" if every or body.get("seed", 0) % 2 else "yes", "length")  # noqa: E731
    options = ["mask.r_max=0", "data.held_out=0", "train.phases.0.steps=2", "data.labels=all"]
    options += ["responses.student=0" if every else "responses.student=1", "responses.teacher=3"]
    options += ["train.teacher_logits=cached" if every else "train.teacher_logits=live"]
    with scripted(reply, probe=spoken) as server:
        engine = f"responses.teacher_engine={{url: '{server.url}', model: tiny}}"
        run = distill(tiny_recipe, [*options, engine])
    rows = [row for path in (run.folder / "phase-0-joint/responses").rglob("*.parquet") for row in store.read(path)]
    empty = [row for row in rows if not len(row["token_ids"])]
    assert empty and all((row["jsd"], row["r_acc"], row["cut"]) == (None, 0.0, True) for row in empty)
    assert {row["scorer"] for row in empty} == {"rule:empty"}
    assert (len(empty) == len(rows)) is every
    for line in metrics(run.folder):
        assert all(np.isfinite(value) for value in line.values() if isinstance(value, float)), line
        assert (line["loss"] == 0) is every


@pytest.mark.wide
@pytest.mark.parametrize("lora", ["null", "{rank: 4}"])
def test_the_reference_is_the_student_before_the_first_phase_unless_the_recipe_says_before_each(
    tiny_recipe: Path, monkeypatch, lora: str
) -> None:
    """At the second phase's first step the student is its own start, and far from the run's."""
    monkeypatch.chdir(tiny_recipe.parent)
    options = ["train.phases=[{objective: distill, steps: 4}, {objective: reward, steps: 2}]", f"train.lora={lora}"]
    options += ["mask.r_max=0", "data.held_out=0", "train.learning_rate=0.03", "responses.shared=shared"]
    far = {}
    for reference in ("start", "phase"):
        run = distill(tiny_recipe, [*options, f"reward.reference={reference}", f"run_dir={reference}"])
        far[reference] = [line["kl_reference"] for line in metrics(run.folder) if "kl_reference" in line]
    assert far["phase"][0] < 1e-5 < 0.01 < far["start"][0]


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_quantized_checkpoint_is_refused_before_anything_is_written(tiny_recipe: Path, monkeypatch, who: str) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    shutil.copytree(tiny_recipe.parent / who, tiny_recipe.parent / "small")
    config = json.loads(Path("small/config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    Path("small/config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"small.config.json names a quantizer \(bitsandbytes\).* give the unquantized one"
    ):
        distill(tiny_recipe, ["student=./small" if who == "student" else "teachers=[./small]"])
    assert not Path("runs").exists()


def test_a_decoder_that_sees_less_than_all_is_refused_beforehand(tiny_recipe: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    shutil.copytree(tiny_recipe.parent / "teacher", tiny_recipe.parent / "window")
    config = json.loads(Path("window/config.json").read_text())
    config["text_config"] |= {"model_type": "mistral", "sliding_window": 4}
    Path("window/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"teacher .*window: its decoder \(mistral\) doesn't see the whole prefix"):
        distill(tiny_recipe, ["teachers=[./window]"])
    assert not Path("runs").exists()


@pytest.mark.wide
def test_generate_alone_is_what_distill_goes_on_with(tiny_recipe: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    run = distill(tiny_recipe, only_generate=True)
    shards = {p: p.stat().st_mtime_ns for p in (run.folder / "phase-0-joint/responses").rglob("*.parquet")}
    assert shards and not run.finished
    distill(tiny_recipe)
    assert shards == {p: p.stat().st_mtime_ns for p in shards}


def test_teacher_with_another_tokenizer_is_refused_before_anything_is_written(tiny_recipe: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    shutil.copytree(tiny_recipe.parent / "teacher", tiny_recipe.parent / "stranger")
    tokenizer = json.loads((tiny_recipe.parent / "stranger/tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    last, before = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[last], vocabulary[before] = vocabulary[before], vocabulary[last]
    (tiny_recipe.parent / "stranger/tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"of student .*student and teacher .*stranger differ in: vocabulary"):
        distill(tiny_recipe, ["teachers=[./stranger]"])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (['{"image": "a.png", "question": "what?", "answer": "x"}'], "a.png can't be read"),
        (['{"image": "lost.png", "question": "what?"}'], "lost.png"),
        (['{"question": "what?"}'], "image"),
        ([], "q.jsonl"),
    ],
)
def test_bad_data_is_one_sentence_and_leaves_nothing(
    tiny_recipe: Path, rows: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tiny_recipe.parent
    (home / "a.png").write_bytes(b"\x89PNG and then nothing")
    (home / "q.jsonl").write_text("\n".join(rows))
    overrides = ["data.train={source: q.jsonl}", "data.labels=all", "data.held_out=0", "data.limit=null"]
    monkeypatch.chdir(home)
    with pytest.raises(UserError) as refused:
        distill(tiny_recipe, overrides)
    assert sentence in str(refused.value)
    assert not (home / "runs").exists()


@pytest.mark.wide
def test_a_users_mistake_is_a_sentence_and_status_2(tiny_recipe: Path) -> None:
    process = start(tiny_recipe, "data.train={source: nowhere.jsonl}")
    output, _ = process.communicate()
    assert process.returncode == 2, output
    assert "nowhere.jsonl" in output and "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("masters-edge: ")
    assert not (tiny_recipe.parent / "runs").exists()


@pytest.mark.wide
def test_a_full_disk_is_one_sentence(tiny_recipe: Path) -> None:
    """Files are limited to 40 KB in that process, as a full disk would: the checkpoint can't be written."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000));"
        "sys.argv = ['masters-edge', 'distill', 'tiny.yaml']; from masters_edge.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny_recipe.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr and "Traceback" not in done.stderr
    assert not (tiny_recipe.parent / "runs/tiny/student").exists()
