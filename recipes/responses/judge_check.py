"""A real judge against a rule: a language model in a GGUF file, served by llama.cpp over its OpenAI-compatible
endpoint, grades answers to easy-VQA questions whose scores are known; `masters-edge judge` says how far both agree.

    pip install 'masters-edge[distill,gguf,dev]'
    python recipes/responses/judge_check.py model.gguf --questions 40 --out out/judge-check

Half of the answers are right, a third of those dressed up ("Yes."); the others are another answer of the data set.
Writes said.jsonl and what `masters-edge judge` writes.
"""

import argparse
import json
import random
import time
from pathlib import Path

from masters_edge.agreement import command as agreement
from masters_edge.data import easy_vqa


def answers(path: Path, count: int, seed: int = 0) -> None:
    """JSON lines with question, response, answer: `count` questions of easy-VQA's test split."""
    rng = random.Random(seed)
    every = easy_vqa.read("test")
    known = sorted({question.answer or "" for question in every})
    with path.open("w", encoding="utf-8") as file:
        for number, question in enumerate(rng.sample(every, count)):
            right = question.answer or ""
            response = right if number % 2 else rng.choice([answer for answer in known if answer != right])
            if number % 6 == 1:
                response = f"{response.capitalize()}."
            row = {"id": question.id, "question": question.text, "response": response, "answer": right}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("out/judge-check"))
    given = parser.parse_args()
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.n_gpu_layers = str(given.model.resolve()), 0, 0
    params.n_ctx, params.n_parallel = 8192, 4
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    params.verbosity = -1
    server = xllamacpp.Server(params)
    given.out.mkdir(parents=True, exist_ok=True)
    answers(given.out / "said.jsonl", given.questions)
    recipe = given.out / "recipe.yaml"
    judge = {
        "model": given.model.stem,
        "url": f"{server.listening_address}/v1",
        "concurrency": 4,
        "timeout_s": 900,
        "max_new_tokens": given.max_new_tokens,
    }
    source = {"source": "easy-vqa", "split": "train"}
    recipe.write_text(
        json.dumps({"student": "-", "teachers": ["-"], "data": {"train": source}, "reward": {"judge": judge}})
    )
    started = time.monotonic()
    agreement.report(
        recipe, responses=given.out / "said.jsonl", questions=given.questions, rule="exact_match", out=given.out
    )
    print(f"{time.monotonic() - started:.0f} s for {given.questions} responses, {given.threads} threads")


if __name__ == "__main__":
    main()
