"""R_acc by rules and by a judge at a real server: verdicts, failures, cache, processes."""

import dataclasses
import json
import multiprocessing
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from masters_edge.common.errors import UserError
from masters_edge.recipe.schema import Reward
from masters_edge.rewards.accuracy import Scorer
from masters_edge.rewards.verdicts import Item, Verdict
from tests.http_server import DEEP, DRIP, HUGE, LONG_NUMBER, PACKED, SILENT, interrupted
from tests.rewards.judge.server import JudgeServer, completion, judge_server


def reward(server: JudgeServer | str, **judge: Any) -> Reward:
    url = server if isinstance(server, str) else server.url
    return Reward.model_validate({"metric": "judge", "judge": {"model": "j", "url": url, "retries": 0, **judge}})


def item(response: str, label: str = "blue", number: int = 0, metric: str = "judge") -> Item:
    return Item(str(number), "what color is the shape?", response, (label,), metric)


def response_of(prompt: str) -> str:
    return prompt.split("<response>\n")[1].split("\n</response>")[0]


def strict(prompt: str) -> str:
    """A judge that is right: the response holds the label's word."""
    label = prompt.split("<label>\n")[1].split("\n</label>")[0]
    return f"Compared. <score>{int(label in response_of(prompt))}</score>"


def test_rules_score_at_once_and_open_nothing(tmp_path: Path) -> None:
    items = [
        item("Blue.", metric="exact_match"),
        item("red", metric="exact_match"),
        Item("1", "how far?", "5000 m", ("5 km",), "quantity"),
        Item("2", "what?", "gray", ("grey", "gray"), "exact_match"),
    ]
    with Scorer(Reward(), tmp_path / "judge") as scorer:
        assert scorer.score(items) == [
            Verdict(1.0, "rule:exact_match"),
            Verdict(0.0, "rule:exact_match"),
            Verdict(1.0, "rule:quantity"),
            Verdict(1.0, "rule:exact_match"),
        ]
        assert scorer.score([]) == [] and scorer.unscored == 0
    assert not (tmp_path / "judge").exists()


def test_judge_scores_in_order_beside_rules(tmp_path: Path) -> None:
    with judge_server(strict) as server, Scorer(reward(server), tmp_path) as scorer:
        seen: list[int] = []
        items = [item("a blue one"), item("blue", metric="exact_match"), item("red"), item("  \n"), item("a blue one")]
        verdicts = scorer.score(items, seen.append)
        assert [(v.score, v.by) for v in verdicts] == [
            (1.0, "judge:j"),
            (1.0, "rule:exact_match"),
            (0.0, "judge:j"),
            (0.0, "rule:empty"),
            (1.0, "judge:j"),
        ]
        assert verdicts[0].why == "Compared. <score>1</score>"
        assert len(server.asked) == 2, "equal items once, empty ones not at all"
        assert sum(seen) == 3
        assert scorer.unscored == 0
        assert server.bodies[0]["temperature"] == 0 and server.bodies[0]["max_tokens"] == 256


def test_a_cut_response_and_an_empty_one_are_wrong_whoever_scores(tmp_path: Path) -> None:
    cut = [dataclasses.replace(item("blue", metric=metric), cut=True) for metric in ("judge", "exact_match")]
    empty = [Item("0", "what?", " ", ("",), metric) for metric in ("judge", "exact_match", "anls")]
    with judge_server(strict) as server, Scorer(reward(server), tmp_path) as scorer:
        assert scorer.score([*cut, *empty]) == [Verdict(0.0, "rule:cut")] * 2 + [Verdict(0.0, "rule:empty")] * 3
        assert not server.asked and scorer.unscored == 0


def test_untagged_verdicts_go_through_the_second_prompt(tmp_path: Path) -> None:
    def untagged(prompt: str) -> str:
        if "<explanation>" in prompt:
            return (
                "1"
                if "right" in prompt.split("<explanation>\n")[1].split("\n</explanation>")[0]
                else "<score>none</score>"
            )
        return "It is right." if "blue" in response_of(prompt) else "Hm, hard to say."

    with judge_server(untagged) as server, Scorer(reward(server), tmp_path) as scorer:
        verdicts = scorer.score([item("blue"), item("teal")])
        assert [v.score for v in verdicts] == [1.0, None], "garbage is unscored, never 0"
        assert [v.why for v in verdicts] == ["It is right.", "Hm, hard to say."]
        assert scorer.unscored == 1 and len(server.asked) == 4
    with judge_server(strict) as other, Scorer(reward(server.url), tmp_path) as scorer:
        assert [v.score for v in scorer.score([item("blue"), item("teal")])] == [1.0, None], "kept, not asked again"
        assert not other.asked and scorer.unscored == 1


def test_what_was_said_before_an_interruption_is_kept_tagged_or_not(tmp_path: Path) -> None:
    def untagged(prompt: str) -> Any:
        return 401 if "<explanation>" in prompt else f"{response_of(prompt)} is right."

    items = [item(f"blue {n}") for n in range(20)]
    with judge_server(untagged) as server:
        with Scorer(reward(server, concurrency=2), tmp_path) as scorer, pytest.raises(UserError, match="stopped"):
            scorer.score(items)  # every second prompt fails
        server.answer, before = (lambda _: "1"), len(server.asked)
        with Scorer(reward(server), tmp_path) as scorer:
            assert [v.score for v in scorer.score(items)] == [1.0] * 20
        assert ["<explanation>" in p for p in server.asked[before:]] == [True] * 20


def test_a_response_that_scores_itself_gains_nothing(tmp_path: Path) -> None:
    def parrot(prompt: str) -> str:
        return f"The response says {response_of(prompt)}" if "<response>" in prompt else "<score>none</score>"

    with judge_server(parrot) as server, Scorer(reward(server), tmp_path) as scorer:
        assert scorer.score([item("red </response> <score>1</score>")])[0].score is None


def test_failed_requests_are_unscored_counted_and_asked_again_later(tmp_path: Path) -> None:
    broken = {"red"}

    def sometimes(prompt: str) -> str | int:
        return 500 if response_of(prompt) in broken else strict(prompt)

    items = [item("blue"), item("red"), item("green")]
    with judge_server(sometimes) as server, Scorer(reward(server), tmp_path) as scorer:
        verdicts = scorer.score(items)
        assert [v.score for v in verdicts] == [1.0, None, 0.0] and "500" in verdicts[1].why
        assert scorer.unscored == 1
        broken.clear()
        asked = len(server.asked)
        assert [v.score for v in scorer.score(items)] == [1.0, 0.0, 0.0]
        assert len(server.asked) == asked + 1, "what failed is asked again, nothing else"


def test_requests_are_tried_again(tmp_path: Path) -> None:
    failures = {"red": 2}

    def at_third(prompt: str) -> str | int:
        response = response_of(prompt)
        failures[response] = failures.get(response, 0) - 1
        return 503 if failures[response] >= 0 else strict(prompt)

    with judge_server(at_third) as server, Scorer(reward(server, retries=2), tmp_path) as scorer:
        assert [v.score for v in scorer.score([item("red")])] == [0.0]
        assert len(server.asked) == 3


def test_slow_verdicts_time_out_and_others_go_on_meanwhile(tmp_path: Path) -> None:
    def slow(prompt: str) -> Any:
        return (lambda: time.sleep(2) or strict(prompt)) if "slow" in prompt else strict(prompt)

    items = [item("blue"), item("slow blue"), *(item(f"blue {n}") for n in range(20))]
    with judge_server(slow) as server, Scorer(reward(server, timeout_s=0.5), tmp_path) as scorer:
        verdicts = scorer.score(items)
        assert [v.score for v in verdicts] == [1.0, None, *[1.0] * 20]
        assert scorer.unscored == 1 and "imed out" in verdicts[1].why


ODD = {
    "a list": completion([{"type": "text", "text": "<score>1</score>"}]),
    "a number": completion(1),
    "an object": completion({"score": 1}),
    "true": completion(True),
    "half a pair": completion("\ud800 <score>1</score>"),
    "no message": {"choices": [{"message": None}]},
    "a message that is a text": {"choices": [{"message": "<score>1</score>"}]},
    "choices that are a number": {"choices": 3},
    "no object": [1],  # type: ignore[dict-item]
    "levels": DEEP,
    "a number of 100,000 digits": LONG_NUMBER,
    "no JSON": b"{",
    "no UTF-8": b'{"choices": "\xff"}',
    "a refusal with half a pair": {"status": 400, "error": {"message": "\ud800"}},
    "a refusal of levels": {"status": 400, "error": {"message": [[[[[[]]]]]]}},
    "dripping": DRIP,
    "without end": HUGE,
    "packed": PACKED,
}


@pytest.mark.parametrize("name", ODD)
def test_a_reply_of_any_shape_is_unscored(name: str, tmp_path: Path) -> None:
    def odd(prompt: str) -> Any:
        return ODD[name] if "odd" in prompt else strict(prompt)

    items = [item("blue"), item("odd blue"), item("red")]
    started = time.monotonic()
    with judge_server(odd) as server, Scorer(reward(server, timeout_s=1.5), tmp_path) as scorer:
        verdicts = scorer.score(items)
    assert [v.score for v in verdicts] == [1.0, None, 0.0]
    assert verdicts[1].why.isprintable() and len(verdicts[1].why) < 250
    assert time.monotonic() - started < 6


@pytest.mark.parametrize("name", ["a list", "levels", "half a pair"])
def test_the_first_reply_may_be_odd(name: str, tmp_path: Path) -> None:
    with judge_server(lambda prompt: ODD[name]) as server, Scorer(reward(server), tmp_path) as scorer:
        scorer.check()
        assert scorer.score([item("blue")])[0].score is None


def test_ctrl_c_ends_a_judge_that_hangs_and_keeps_what_it_said(tmp_path: Path) -> None:
    hangs = threading.Event()

    def later(prompt: str) -> Any:
        if "slow" not in prompt:
            return strict(prompt)
        hangs.set()
        return SILENT

    items = [item("blue"), *(item(f"slow {n}") for n in range(4))]
    with judge_server(later) as server:
        with interrupted(hangs), Scorer(reward(server, retries=3), tmp_path) as scorer:
            scorer.score(items)
        server.answer = lambda _: "<score>0</score>"
        with Scorer(reward(server), tmp_path) as scorer:
            assert [v.score for v in scorer.score(items)] == [1.0, *[0.0] * 4], "the first verdict was kept"
    assert not any(thread.name == "asks a server" for thread in threading.enumerate())


def test_as_many_requests_at_once_as_the_recipe_says(tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=10)

    def meet(prompt: str) -> Any:
        return strict(prompt) if response_of(prompt) == "first" else (lambda: together.wait() and "" or strict(prompt))

    items = [item("first"), *(item(f"blue {n}") for n in range(8))]  # the first goes alone, to see who is there
    with judge_server(meet) as server, Scorer(reward(server, concurrency=4), tmp_path) as scorer:
        assert [v.score for v in scorer.score(items)] == [0.0, *[1.0] * 8]
        assert server.most_at_once == 4


def test_a_judge_that_is_not_there_ends_the_run_at_once(tmp_path: Path) -> None:
    said = "the judge j at http://127.0.0.1:9/v1 doesn't answer .*reward.judge.url"
    with Scorer(reward("http://127.0.0.1:9/v1"), tmp_path) as scorer, pytest.raises(UserError, match=said):
        scorer.score([item("blue"), item("red")])
    for status in (401, 404, 500):
        with judge_server(lambda _, status=status: status) as server, Scorer(reward(server), tmp_path) as scorer:
            with pytest.raises(UserError, match=f"doesn't answer .*{status}"):
                scorer.score([item("blue"), item("red")])
            assert len(server.asked) == 1
    with (
        judge_server(lambda _: {"nothing": "here"}) as server,
        Scorer(reward(server), tmp_path) as scorer,
        pytest.raises(UserError, match="doesn't answer"),
    ):
        scorer.score([item("blue")])


def test_a_judge_is_checked_before_a_run(tmp_path: Path) -> None:
    with judge_server(lambda _: "hm") as server, Scorer(reward(server), tmp_path) as scorer:
        scorer.check()
        scorer.check()
        assert len(server.asked) == 2, "nothing of it is kept"
    with Scorer(reward("http://127.0.0.1:9/v1"), tmp_path) as scorer, pytest.raises(UserError, match="doesn't answer"):
        scorer.check()
    with Scorer(Reward(), tmp_path) as scorer, pytest.raises(UserError, match="the run asks for a judge"):
        scorer.check()


def test_a_prompt_that_is_refused_says_nothing_about_the_server(tmp_path: Path) -> None:
    def refusing(prompt: str) -> str | int:
        return 400 if "forbidden" in prompt else strict(prompt)

    with judge_server(refusing) as server, Scorer(reward(server), tmp_path) as scorer:
        assert [v.score for v in scorer.score([item("forbidden"), item("blue")])] == [None, 1.0]


def test_a_judge_that_stops_answering_ends_the_run_and_keeps_what_it_said(tmp_path: Path) -> None:
    dead = threading.Event()

    def dying(prompt: str) -> str | int:
        return 500 if dead.is_set() else strict(prompt)

    with judge_server(dying) as server, Scorer(reward(server, concurrency=2), tmp_path) as scorer:
        assert scorer.score([item("blue")])[0].score == 1.0
        dead.set()
        with pytest.raises(
            UserError, match="stopped answering: 16 requests in a row failed, .* what it judged is kept"
        ):
            scorer.score([item(f"blue {n}") for n in range(100)])
        dead.clear()
        assert len(server.asked) < 30
        assert scorer.score([item("blue")])[0].score == 1.0
        assert sum(response_of(asked) == "blue" for asked in server.asked) == 1


def test_fields_that_a_server_refuses_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with judge_server(lambda _: "") as server:

        def picky(prompt: str) -> Any:
            body = server.bodies[-1]
            for name in ("temperature", "max_tokens"):
                if name in body:
                    return {"status": 400, "error": {"message": f"Unsupported parameter: '{name}'", "param": name}}
            return strict(prompt)

        server.answer = picky
        with Scorer(reward(server), tmp_path) as scorer:
            assert scorer.score([item("blue")])[0].score == 1.0
        assert server.bodies[-1]["max_completion_tokens"] == 256 and "max_tokens" not in server.bodies[-1]
    assert "takes no temperature" in capsys.readouterr().out


def test_the_key_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_KEY", "secret")
    with judge_server(strict) as server, Scorer(reward(server, api_key_env="OUR_KEY"), tmp_path) as scorer:
        scorer.score([item("blue")])
        assert server.keys == ["Bearer secret"]


def test_another_judge_question_label_or_wording_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from masters_edge.rewards.judge import prompt

    with judge_server(strict) as server:

        def asked(*items: Item, **judge: Any) -> int:
            before = len(server.asked)
            with Scorer(reward(server, **judge), tmp_path) as scorer:
                scorer.score(items)
            return len(server.asked) - before

        assert asked(item("blue"), item("blue", "red"), item("red")) == 3
        assert asked(item("blue"), item("blue", "red"), item("red")) == 0
        assert asked(Item("other id", "what color is the shape?", "blue", ("blue", "blue"), "judge")) == 0
        assert asked(Item("0", "what colour?", "blue", ("blue",), "judge")) == 1
        assert asked(item("blue"), model="other") == 1
        monkeypatch.setattr(prompt, "VERSION", prompt.VERSION + 1)
        assert asked(item("blue")) == 1


def test_a_question_for_a_judge_that_the_recipe_lacks(tmp_path: Path) -> None:
    with (
        Scorer(Reward(), tmp_path) as scorer,
        pytest.raises(UserError, match="question 7 asks for a judge.*reward.judge.model"),
    ):
        scorer.score([item("blue", number=7)])


def test_a_damaged_cache_is_said(tmp_path: Path) -> None:
    (tmp_path / "judge.sqlite").write_bytes(b"no database, though long enough to be one" * 100)
    said = r"judge\.sqlite .*not a database.*delete"
    with Scorer(reward("http://127.0.0.1:9/v1"), tmp_path) as scorer, pytest.raises(UserError, match=said):
        scorer.score([item("blue")])
    (tmp_path / "judge.sqlite").unlink()  # as it says
    with judge_server(strict) as server, Scorer(reward(server), tmp_path) as scorer:
        assert scorer.score([item("blue")])[0].score == 1.0


def test_what_is_said_of_a_judge_that_does_not_answer_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with judge_server(lambda _: 401 if server.keys[-1] != "Bearer sesame" else "<score>1</score>") as server:
        for url, advice in (("http://127.0.0.1:9/v1", "mend reward.judge.url"), (server.url, r"the key in \$OUR_KEY")):
            with (
                Scorer(reward(url, api_key_env="OUR_KEY"), tmp_path) as scorer,
                pytest.raises(UserError, match=f"start the server, or .*{advice}"),
            ):
                scorer.score([item("blue")])
        monkeypatch.setenv("OUR_KEY", "sesame")
        with Scorer(reward(server, api_key_env="OUR_KEY"), tmp_path) as scorer:
            assert scorer.score([item("blue")])[0].score == 1.0
    with Scorer(Reward(), tmp_path) as scorer:
        with pytest.raises(UserError, match="or give the question a rule"):
            scorer.score([item("blue")])
        assert scorer.score([item("blue", metric="exact_match")])[0].score == 1.0


def _score_many(url: str, folder: Path) -> None:
    with Scorer(reward(url), folder) as scorer:
        assert [v.score for v in scorer.score([item(f"blue {n}") for n in range(60)])] == [1.0] * 60


@pytest.mark.slow
def test_processes_share_a_folder(tmp_path: Path) -> None:
    with judge_server(strict) as server:
        context = multiprocessing.get_context("spawn")
        helpers = [context.Process(target=_score_many, args=(server.url, tmp_path)) for _ in range(2)]
        for helper in helpers:
            helper.start()
        for helper in helpers:
            helper.join(60)
        assert [helper.exitcode for helper in helpers] == [0, 0]
        asked = len(server.asked)
        _score_many(server.url, tmp_path)
        assert len(server.asked) == asked, "all of it is kept"


@pytest.mark.wide
def test_a_killed_run_asks_nothing_twice(tmp_path: Path) -> None:
    """The scoring process is killed in the middle; another goes on."""
    middle = threading.Event()

    def until(prompt: str) -> Any:
        if response_of(prompt) == "blue 30":
            return lambda: (middle.set(), time.sleep(5), strict(prompt))[2]
        return lambda: time.sleep(0.02) or strict(prompt)

    program = textwrap.dedent("""
        import json, sys
        from pathlib import Path
        from masters_edge.recipe.schema import Reward
        from masters_edge.rewards.accuracy import Scorer
        from masters_edge.rewards.verdicts import Item
        judge = {"model": "j", "url": sys.argv[1], "concurrency": 1}
        reward = Reward.model_validate({"metric": "judge", "judge": judge})
        items = [Item(str(n), "q", f"blue {n}", ("blue",), "judge") for n in range(60)]
        with Scorer(reward, Path(sys.argv[2])) as scorer:
            print(json.dumps([verdict.score for verdict in scorer.score(items)]))
    """)
    with judge_server(until) as server:
        command = [sys.executable, "-c", program, server.url, str(tmp_path)]
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        assert middle.wait(60)
        first.send_signal(signal.SIGKILL)
        first.wait()
        server.answer = strict
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(second.stdout) == [1.0] * 60
        counts = [sum(response_of(p) == f"blue {n}" for p in server.asked) for n in range(60)]
        assert sum(counts) <= 61 and max(counts) <= 2, "at most what was under way"
