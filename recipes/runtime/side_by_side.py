"""Our runtime beside what a user would pick instead, at SmolVLM-256M's shape, int4, in one run, as ratios.

    python recipes/runtime/side_by_side.py --folder runs/side-by-side --out runs/side-by-side/figures.json

Makes a student with random weights, exports it (ONNX, OpenVINO, GGUF), and builds the peers from the same weights:
onnxruntime-genai by its own model builder (text part, its int4 at accuracy level 4), openvino-genai from our
OpenVINO files (embedding and decoder joined, as its LLMPipeline wants them), llama.cpp's own server on our GGUF files,
and plain OpenVINO. Each is measured in fresh processes, taking turns, after a warm-up of its own; figures are medians
over all rounds. A round is one prompt of 128 tokens (64 of them the picture's, where the runner reads pictures) and 64
tokens of answer. What is said is random, how long it takes isn't.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masters_edge.common.quiet import hush

hush()
if __name__ == "__main__":  # `recipes/` is no package: its files find each other as scripts do
    sys.path.insert(0, str(Path(__file__).parent.parent / "export"))

PROMPT, ANSWER, SIDE = 128, 64, 512
QUESTION = "what is in this image? "
TARGETS = ("onnx", "openvino", "gguf")


def asked(student: Any) -> tuple[Any, str]:
    """Picture and question that make a prompt of about PROMPT tokens."""
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8))
    question = QUESTION
    while len(student.ask(picture, question + "a").input_ids) < PROMPT:
        question += "a"
    return picture, question


def ours(folder: Path, threads: int, target: str, backend: str) -> Callable[[], dict[str, float]]:
    """A bundle of ours, by the runtime."""
    from masters_edge.runtime import Student

    student = Student.load(folder / f"{target}-int4", backend=backend, threads=threads)
    picture, question = asked(student)

    def round_() -> dict[str, float]:
        answer = student.answer(picture, question, exactly=ANSWER)
        return {
            "prompt_tokens": answer.prompt_tokens,
            "vision_ms": answer.vision_ms,
            "prefill_ms": answer.prefill_ms,
            "decode_tokens_per_s": answer.decode_tokens_per_s or 0.0,
        }

    return round_


def llamacpp_server(folder: Path, threads: int) -> Callable[[], dict[str, float]]:
    """llama.cpp's own server over HTTP, as a client sees it; picture and prompt are those that ours gets."""
    import urllib.request

    import xllamacpp

    from masters_edge.runtime import Student
    from masters_edge.runtime.backends.llamacpp import _bmp

    bundle = folder / "gguf-int4"
    student = Student.load(bundle, backend="llamacpp", threads=threads)
    text, pictures = student.backend._media(student.ask(*asked(student)))
    student.backend.close()
    graphs = json.loads((bundle / "manifest.json").read_text())["graphs"]
    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = str(bundle / graphs["decoder"]), str(bundle / graphs["vision_encoder"])
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.port = 8192, 1, 0, 0
    params.mmproj_use_gpu = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity, params.cache_ram_mib = -1, 0
    for name, value in json.loads((bundle / "llamacpp.json").read_text())["settings"].items():
        setattr(params, name, value)
    server = xllamacpp.Server(params)

    def ask(prompt: Any, tokens: int) -> dict[str, Any]:
        request = {"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "cache_prompt": False, "temperature": 0.0}
        url = urllib.request.Request(
            f"{server.listening_address}/completion",
            json.dumps({**request, "samplers": ["top_k"], "top_k": 1}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(url, timeout=600) as reply:
            return json.loads(reply.read())

    whole = {"prompt_string": text, "multimodal_data": [_bmp(picture) for picture in pictures]}

    def round_() -> dict[str, float]:
        started = time.perf_counter()
        seen = ask(whole, ANSWER)
        wall_ms, clock = 1000 * (time.perf_counter() - started), seen["timings"]
        vision_ms = clock["prompt_ms"] - ask([0] * seen["tokens_evaluated"], 1)["timings"]["prompt_ms"]
        return {
            "prompt_tokens": seen["tokens_evaluated"],
            "vision_ms": vision_ms,
            "prefill_ms": wall_ms - clock["predicted_ms"] - vision_ms,
            "decode_tokens_per_s": 1000 * (ANSWER - 1) / clock["predicted_ms"],  # as everywhere here: steps
        }

    return round_


def ortgenai(folder: Path, threads: int) -> Callable[[], dict[str, float]]:
    """onnxruntime-genai: the text part, prompt as token ids."""
    import numpy as np
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(folder / "ortgenai"))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = onnxruntime_genai.Model(config)
    rng = np.random.default_rng(0)

    def round_() -> dict[str, float]:
        prompt = rng.integers(10, 400, (1, PROMPT)).astype(np.int32)
        params = onnxruntime_genai.GeneratorParams(model)
        params.set_search_options(max_length=PROMPT + ANSWER, min_length=PROMPT + ANSWER, do_sample=False, batch_size=1)
        generator = onnxruntime_genai.Generator(model, params)
        started = time.perf_counter()
        generator.append_tokens(prompt)
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(ANSWER - 1):
            generator.generate_next_token()
        ended = time.perf_counter()
        return {
            "prompt_tokens": PROMPT,
            "prefill_ms": 1000 * (first - started),
            "decode_tokens_per_s": (ANSWER - 1) / (ended - first),
        }

    return round_


def openvino_genai(folder: Path, threads: int) -> Callable[[], dict[str, float]]:
    """openvino-genai's LLMPipeline, by its own metrics."""
    import numpy as np
    import openvino
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(folder / "openvino-genai"), "CPU", INFERENCE_NUM_THREADS=threads)
    rng = np.random.default_rng(0)
    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens = settings.min_new_tokens = ANSWER
    settings.ignore_eos, settings.do_sample = True, False

    def round_() -> dict[str, float]:
        ids = rng.integers(10, 400, (1, PROMPT)).astype(np.int64)  # another each time: it remembers prompts
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        metrics = pipeline.generate(inputs, settings).perf_metrics
        return {
            "prompt_tokens": PROMPT,
            "prefill_ms": metrics.get_ttft().mean,
            "decode_tokens_per_s": 1000 / metrics.get_tpot().mean,
        }

    return round_


def plain_openvino(folder: Path, threads: int) -> Callable[[], dict[str, float]]:
    """The files of our OpenVINO bundle, compiled and run as its tutorials do."""
    import numpy as np

    from masters_edge.common.quiet import import_openvino

    bundle = folder / "openvino-int4"
    graphs = json.loads((bundle / "manifest.json").read_text())["graphs"]
    core = import_openvino().Core()
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    vision_encoder, decoder = (
        core.compile_model(str(bundle / graphs[part]), "CPU", config) for part in ("vision_encoder", "decoder")
    )
    request = decoder.create_infer_request()
    width = decoder.input("inputs_embeds").get_partial_shape()[2].get_length()
    embeds = np.random.default_rng(0).standard_normal((1, PROMPT, width)).astype(np.float32)
    pixels = np.zeros((1, 1, 3, SIDE, SIDE), np.float32)
    mask = np.ones((1, 1, SIDE, SIDE), bool)

    def step(piece: Any, place: int) -> float:
        started = time.perf_counter()
        end = place + piece.shape[1]
        request.infer(
            {
                "inputs_embeds": piece,
                "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(place, end)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )["logits"][0, -1].argmax()
        return time.perf_counter() - started

    def round_() -> dict[str, float]:
        started = time.perf_counter()
        vision_encoder({"pixel_values": pixels, "pixel_attention_mask": mask})
        vision = time.perf_counter() - started
        request.reset_state()
        prefill = step(embeds, 0)
        decode = sum(step(embeds[:, :1], PROMPT + place) for place in range(ANSWER - 1))
        return {
            "prompt_tokens": PROMPT,
            "vision_ms": 1000 * vision,
            "prefill_ms": 1000 * prefill,
            "decode_tokens_per_s": (ANSWER - 1) / decode,
        }

    return round_


RUNNERS: dict[str, Callable[[Path, int], Callable[[], dict[str, float]]]] = {
    "masters-edge, ONNX Runtime": lambda folder, threads: ours(folder, threads, "onnx", "onnxruntime"),
    "onnxruntime-genai": ortgenai,
    "masters-edge, OpenVINO": lambda folder, threads: ours(folder, threads, "openvino", "openvino"),
    "openvino-genai": openvino_genai,
    "plain OpenVINO": plain_openvino,
    "masters-edge, llama.cpp": lambda folder, threads: ours(folder, threads, "gguf", "llamacpp"),
    "llama.cpp's own server": llamacpp_server,
}
# What is held against what; the first is ours.
PAIRS = [
    ("masters-edge, ONNX Runtime", "onnxruntime-genai"),
    ("masters-edge, OpenVINO", "openvino-genai"),
    ("masters-edge, OpenVINO", "plain OpenVINO"),
    ("masters-edge, llama.cpp", "llama.cpp's own server"),
    ("masters-edge, ONNX Runtime", "llama.cpp's own server"),
]


def prepare(folder: Path) -> None:
    """Student, bundles and the peers' models, those that aren't there yet."""
    student = folder / "student"
    if not (student / "config.json").exists():
        from shape import build

        build(student)
    for target in TARGETS:
        if not (folder / f"{target}-int4" / "manifest.json").exists():
            import numpy as np
            from PIL import Image

            from masters_edge.export import export_student

            picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8))
            export_student(
                student, target=target, scheme="int4", out=folder / f"{target}-int4", samples=[(picture, QUESTION)]
            )
            print(f"exported {target}", flush=True)
    if not (folder / "ortgenai" / "genai_config.json").exists():
        _build_ortgenai(student, folder)
    if not (folder / "openvino-genai" / "openvino_model.xml").exists():
        _join_openvino(folder)


def _build_ortgenai(student: Path, folder: Path) -> None:
    """The text part as a Llama checkpoint, then onnxruntime-genai's own builder."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer, LlamaForCausalLM

    model = AutoModelForImageTextToText.from_pretrained(student)
    text = LlamaForCausalLM(model.config.text_config)
    text.model.load_state_dict(model.model.text_model.state_dict())
    text.lm_head.load_state_dict(model.lm_head.state_dict())
    text.save_pretrained(folder / "text")
    AutoTokenizer.from_pretrained(student).save_pretrained(folder / "text")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", "text", "-o", "ortgenai", "-c", "cache"]
    command += ["-p", "int4", "-e", "cpu", "--extra_options", "int4_accuracy_level=4", "int4_block_size=32"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _join_openvino(folder: Path) -> None:
    """Embedding and decoder as one model of token ids, as optimum-intel exports a language model."""
    import shutil

    from masters_edge.common.quiet import import_openvino

    openvino = import_openvino()
    bundle, out = folder / "openvino-int4", folder / "openvino-genai"
    graphs = json.loads((bundle / "manifest.json").read_text())["graphs"]
    core = openvino.Core()
    embed, decoder = (core.read_model(bundle / graphs[part]) for part in ("embed_tokens", "decoder"))
    ids = embed.inputs[0].get_node()
    found = embed.outputs[0].get_node().input_value(0)
    old = decoder.input("inputs_embeds").get_node()
    old.output(0).replace(found)
    kept = [end.get_node() for end in decoder.inputs if end.get_node() is not old]
    joined = openvino.Model(decoder.get_results(), decoder.get_sinks(), [ids, *kept], "joined")
    out.mkdir(exist_ok=True)
    for file in bundle.glob("openvino_*tokenizer.*"):
        shutil.copy(file, out)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(bundle / name, out)
    (out / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 2, "bos_token_id": 0}))
    openvino.save_model(joined, out / "openvino_model.xml", compress_to_fp16=False)


def one(name: str, folder: Path, threads: int, repeats: int) -> dict[str, Any]:
    """Measure one runner in this process."""
    from masters_edge.benchmarks.machine import peak_rss_mib

    started = time.perf_counter()
    round_ = RUNNERS[name](folder, threads)
    loaded = time.perf_counter() - started
    round_()
    rounds = [round_() for _ in range(repeats)]
    return {"load_s": round(loaded, 2), "peak_rss_mib": round(peak_rss_mib()), "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/side-by-side"), help="what is made, and kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5, help="fresh processes of each runner")
    parser.add_argument("--repeats", type=int, default=3, help="answers in each process, after a warm-up")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=list(RUNNERS), default=list(RUNNERS), metavar="RUNNER")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.folder, args.threads, args.repeats)))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    prepare(args.folder)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in args.only}
    for turn in range(args.turns):
        for name in args.only:
            command = [sys.executable, __file__, "--one", name, "--folder", str(args.folder)]
            command += ["--threads", str(args.threads), "--repeats", str(args.repeats)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if run.returncode:
                sys.exit(f"{name} failed")
            found[name].append(json.loads(run.stdout.splitlines()[-1]))
            print(f"turn {turn + 1} of {args.turns}: {name}", flush=True)
    summary = {name: _summary(turns) for name, turns in found.items()}
    _show(summary)
    if args.out:
        from masters_edge.benchmarks import machine

        about = {"threads": args.threads, "machine": machine.describe(), "versions": machine.versions(*_PACKAGES)}
        args.out.write_text(json.dumps({**about, "runners": summary}, indent=1) + "\n", encoding="utf-8")


_PACKAGES = ("onnxruntime", "onnxruntime-genai", "openvino", "openvino-genai", "xllamacpp", "numpy")
_STAGES = ("vision_ms", "prefill_ms", "decode_tokens_per_s")


def _summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    rounds = [found for turn in turns for found in turn["rounds"]]
    figures: dict[str, Any] = {"prompt_tokens": rounds[0]["prompt_tokens"]}
    for stage in _STAGES:
        values = sorted(found[stage] for found in rounds if stage in found)
        if values:
            low, high = values[len(values) // 4], values[3 * len(values) // 4]
            figures[stage] = {
                "median": round(statistics.median(values), 1),
                "quartiles": [round(low, 1), round(high, 1)],
            }
    figures["peak_rss_mib"] = max(turn["peak_rss_mib"] for turn in turns)
    figures["load_s"] = round(statistics.median(turn["load_s"] for turn in turns), 2)
    return figures


def _show(summary: dict[str, dict[str, Any]]) -> None:
    print("\n| | vision ms | prefill ms (128 tokens) | decode tokens/s | peak MiB |\n|---|---|---|---|---|")
    for name, figures in summary.items():
        cells = [f"{figures[stage]['median']:.0f}" if stage in figures else "–" for stage in _STAGES]
        print(f"| {name} | {' | '.join(cells)} | {figures['peak_rss_mib']} |")
    print("\n| ours over theirs | vision speed | prefill speed | decode speed |\n|---|---|---|---|")
    for mine, theirs in PAIRS:
        if mine in summary and theirs in summary:
            cells = []
            for stage in _STAGES:
                if stage in summary[mine] and stage in summary[theirs]:
                    ratio = summary[mine][stage]["median"] / summary[theirs][stage]["median"]
                    cells.append(f"{ratio if stage == 'decode_tokens_per_s' else 1 / ratio:.2f}x")
                else:
                    cells.append("–")
            print(f"| {mine} over {theirs} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
