"""lmms-eval against `masters-edge serve`, beside `bench` on the same questions, answer by answer.

    .venv/bin/python recipes/lmms_eval/run.py runs/demo/bundles/onnx-int4 --questions 200

In: a bundle. Out, in --work: easy_vqa.jsonl and images/ (the questions), lmms/ (what lmms-eval wrote), bench/ (what
`bench` wrote), venv/ (lmms-eval with its own torch, about 6 GB, made once; --python takes one that is there). Exit
status 1 where an answer or a score differs.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from masters_edge.benchmarks import Settings, Subject, bench, suites
from masters_edge.common.files import write_text
from masters_edge.data.records import open_image

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
TASK = "easy_vqa_local"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundle", type=Path)
    options.add_argument("--questions", type=int, default=200)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--work", type=Path, default=Path("runs/lmms_eval"))
    options.add_argument("--python", type=Path, help="Python of an environment that has lmms-eval")
    chosen = options.parse_args()
    work = chosen.work.resolve()
    suite = suites.load("easy-vqa").take(chosen.questions)
    write_questions(suite, work)
    python = chosen.python or environment(work / "venv")
    with served(chosen.bundle, chosen.threads) as (url, model):
        by_lmms = evaluate(python, work, url, model)
    subject = Subject(name=model, role="exported", path=chosen.bundle, kind="bundle")
    out = work / "bench" / "results.json"
    settings = Settings(threads=chosen.threads, latency_questions=20, cases=False)
    results = bench([subject], suite, settings, out=out)
    (measured,) = (one for one in results.measurements if one.name == model)
    rows = read_rows(out.parent / measured.answers)
    by_bench = {row["id"]: (row["text"].strip(), row["score"]) for row in rows}
    sys.exit(compare(by_lmms, by_bench))


def write_questions(suite: suites.Suite, work: Path) -> None:
    """The suite as JSON lines, and its pictures beside them."""
    lines = []
    for question in suite.questions:
        copy = work / "images" / f"{question.image_id.replace('/', '-')}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        open_image(question).save(copy)
        row = {"id": question.id, "image": str(copy.relative_to(work)), "question": question.text}
        lines.append(json.dumps({**row, "answer": question.answer}))
    write_text(work / "easy_vqa.jsonl", "\n".join(lines) + "\n")


def environment(folder: Path) -> Path:
    """The Python of an environment of lmms-eval's own; its dependencies can't live beside ours."""
    python = folder / "bin" / "python"
    done, wanted = folder / "installed.txt", REQUIREMENTS.read_text(encoding="utf-8")
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        print(f"installing lmms-eval into {folder} (several GB)", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        write_text(done, wanted)
    return python


@contextmanager
def served(bundle: Path, threads: int) -> Iterator[tuple[str, str]]:
    """`masters-edge serve` on a free port; its URL and the model's name."""
    command = [sys.executable, "-m", "masters_edge", "serve", str(bundle), "--port", "0", "--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Ctrl-C"):
                break
        found = re.search(r"http://\S+/v1", said)
        if found is None:
            sys.exit(process.wait())
        yield found[0], bundle.resolve().name
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def evaluate(python: Path, work: Path, url: str, model: str) -> dict[str, tuple[str, float]]:
    """What lmms-eval got for each question: id -> answer and score."""
    shutil.rmtree(work / "lmms", ignore_errors=True)
    arguments = f"model_version={model},base_url={url},api_key=none,num_concurrent=8,max_retries=1"
    command = [python, "-m", "lmms_eval", "--model", "openai", "--model_args", arguments, "--tasks", TASK]
    command += ["--include_path", HERE, "--batch_size", "1", "--log_samples", "--output_path", work / "lmms"]
    alone = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(work / "hf"), "WANDB_MODE": "disabled"}
    subprocess.run(list(map(str, command)), cwd=work, env={**os.environ, **alone}, check=True)
    samples = next((work / "lmms").rglob(f"*samples_{TASK}.jsonl"), None)
    if samples is None:  # it ends with status 0 after an error, too
        sys.exit("lmms-eval wrote no answers; what went wrong stands above")
    asked, answered = read_rows(work / "easy_vqa.jsonl"), read_rows(samples)
    found = {}
    for row in answered:
        question = asked[row["doc_id"]]
        assert (row["input"], row["target"]) == (question["question"], question["answer"]), row
        found[question["id"]] = (row["filtered_resps"].strip(), float(row["exact_match"]))
    return found


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def compare(by_lmms: dict[str, tuple[str, float]], by_bench: dict[str, tuple[str, float]]) -> int:
    """Print both accuracies and every question on which they differ; 1 where there is one, else 0."""
    for name, answers in (("lmms-eval", by_lmms), ("bench", by_bench)):
        right = sum(score for _, score in answers.values())
        print(f"{name:<10} {100 * right / len(answers):.2f}% ({right:.0f} of {len(answers)})")
    different = sorted(id for id in by_lmms.keys() | by_bench.keys() if by_lmms.get(id) != by_bench.get(id))
    for id in different:
        print(f"{id}: lmms-eval {by_lmms.get(id)}, bench {by_bench.get(id)}")
    print(f"{len(by_lmms) - len(different)} of {len(by_lmms)} questions: same answer, same score")
    return 1 if different else 0


if __name__ == "__main__":
    main()
