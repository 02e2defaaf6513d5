"""GGUF bundles on llama.cpp, in this process, through `xllamacpp`.

llama.cpp answers whole: it sees the picture, reads the prompt and decodes by its own code. Pictures are handed over at
the size the student reads them, as they are (BMP), so that nothing is resized twice; in: what the family made of the
picture, and the prompt. Out: token ids and what llama.cpp measured.
"""

import base64
import http.client
import io
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from masters_edge.common.errors import UserError
from masters_edge.runtime import settings
from masters_edge.runtime.backends import WholeAnswer, WholeQuestion
from masters_edge.runtime.families import Seen
from masters_edge.runtime.settings import TokenId, Word

AVAILABLE_FOR = ("gguf",)
PACKAGE = "xllamacpp"
SUFFIXES = (".gguf",)
_ELSEWHERE = "export the student to another target, such as onnx"
CONTEXT = 1024  # tokens of KV cache to begin with: llama.cpp takes its memory when it loads, so it loads again for more
_MARKER = f"<__picture_{secrets.token_hex(8)}__>"  # another one in every process: no question can hold it


class Loading(settings.Exactly):
    """What of llama.cpp's parameters a bundle sets: tokens of one picture. Others start programs and read files."""

    image_min_tokens: settings.Tokens | None = None
    image_max_tokens: settings.Tokens | None = None


class Handing(settings.Exactly):
    """llamacpp.json: how pictures are handed over (`Pictures` in `export/gguf_files/vision.py`)."""

    layout: Literal["frames", "tiled", "patches"]
    replaces: Word
    settings: Loading
    image_token_id: TokenId


def read_handing(folder: Path) -> Handing:
    """llamacpp.json; raises UserError for any key or value that the export doesn't write."""
    return settings.read(folder, "llamacpp.json", Handing)


def open_backend(folder: Path, graphs: dict[str, str], threads: int, exact: bool) -> "LlamaCpp":
    """Load model and vision encoder; raises UserError where llama.cpp refuses them."""
    return LlamaCpp(folder, graphs, threads, exact)


def try_out() -> None:
    """Its import, and settings as a bundle has them."""
    import xllamacpp

    xllamacpp.CommonParams()


class LlamaCpp:
    """A loaded bundle. `exact`: float32 KV cache and attention, in place of float16 and what llama.cpp prefers."""

    name = "llamacpp"

    def __init__(self, folder: Path, graphs: dict[str, str], threads: int, exact: bool) -> None:
        import xllamacpp

        self.exact = exact
        self.settings = read_handing(folder)
        self._pixels = settings.checked(folder, "preprocessor_config.json", settings.Pixels)
        self._most = settings.read(folder, "config.json", settings.Config).text_config.max_position_embeddings
        self._params = params = xllamacpp.CommonParams()
        params.model.path = str(folder / graphs["decoder"])
        params.mmproj.path = str(folder / graphs["vision_encoder"])
        params.n_parallel = 1
        params.n_gpu_layers = 0
        params.mmproj_use_gpu = False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = 0  # no answers kept for later questions
        params.warmup = params.fit_params = False
        params.verbosity = -1  # no logs
        params.no_perf = False
        params.offline = True  # nothing is fetched, whatever a file names
        params.chat_template = "chatml"  # not asked for: prompts come as text, so the file's own is not even parsed
        for name, value in self.settings.settings.model_dump(exclude_none=True).items():
            setattr(params, name, value)
        if exact:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if not hasattr(socket, "AF_UNIX"):
            raise UserError("GGUF bundles are answered on Linux and macOS here; elsewhere use llama.cpp's own programs")
        os.environ["LLAMA_MEDIA_MARKER"] = _MARKER  # read once, when the first picture is
        self._names: dict[int, str] = {}  # of added tokens in the file
        self._closed: Callable[[], Any] = lambda: None
        self._open(CONTEXT)

    def _open(self, tokens: int) -> None:
        """Load the files with a KV cache for so many tokens, or as many as the student reads."""
        import xllamacpp

        self.close()
        self._params.n_ctx = min(tokens, self._most)
        # llama.cpp's server always listens somewhere: here at a socket in a folder that only this user may enter.
        private = tempfile.mkdtemp(prefix="masters-edge-")
        self._closed = weakref.finalize(self, shutil.rmtree, private, ignore_errors=True)
        self._socket = os.path.join(private, "llama.sock")
        self._params.hostnames = [self._socket]
        try:
            self._server = xllamacpp.Server(self._params)
        except Exception as error:
            self._closed()
            folder = Path(self._params.model.path).parent
            raise UserError(f"llama.cpp can't load {folder} ({error}); copy or export the bundle again") from None
        self.text_ms(1)  # an xllamacpp server that is closed before it did anything waits for itself for ever

    def close(self) -> None:
        """Stop llama.cpp's threads and give its memory back."""
        self._server = None
        self._closed()

    def answer(
        self,
        question: WholeQuestion,
        max_new_tokens: int,
        stop_ids: Collection[int],
        on_token: Callable[[int], None] | None = None,
        top: int = 0,
    ) -> WholeAnswer:
        """Answer greedily; `on_token` hears each id as it comes. `top`: log-probabilities of so many tokens a place.

        Where nobody listens and nothing stops the answer, it comes in one piece: hearing token by token takes a fifth
        of two cores' time.

        Raises UserError where llama.cpp fails, or reads another prompt than the student's.
        """
        needed = len(question.input_ids) + max_new_tokens
        if needed > self._params.n_ctx < self._most:
            self._open(max(needed, 2 * self._params.n_ctx))
        around, pictures = self._media(question)
        for ids in around:
            words = self.misread(ids, question.tokenizer)
            if words is not None:
                raise UserError(
                    f"llama.cpp cuts {words!r} into other tokens than the student's tokenizer; leave it out of the "
                    f"question, or {_ELSEWHERE}"
                )
        text = _MARKER.join(self.text(ids, question.tokenizer) for ids in around)
        request = {
            "prompt": {"prompt_string": text, "multimodal_data": [_bmp(picture) for picture in pictures]},
            "n_predict": max_new_tokens,
            "ignore_eos": not stop_ids,
            "temperature": 0.0,
            "samplers": ["top_k"],
            "top_k": 1,
            "logit_bias": [[self.settings.image_token_id, False]],  # an answer holds no picture
            "return_tokens": True,
            "n_probs": top,
            "cache_prompt": False,
            "timings_per_token": True,
            "stream": on_token is not None or bool(stop_ids) or top > 0,
        }
        heard = _Heard(stop_ids, on_token or (lambda token: None))
        for piece in self._ask("/completion", request):
            heard.hear(piece)
            if heard.stopped:
                break
            if not request["stream"]:
                heard.complete(piece["tokens"])
        if heard.gap:
            # llama.cpp holds a token back whose bytes are half a character, and never names it. Asked again, without
            # the stream, it lists them all; the prompt is still in its cache.
            (whole,) = self._ask("/completion", {**request, "stream": False, "cache_prompt": True})
            heard.complete(whole["tokens"])
        if heard.prompt_tokens != len(question.input_ids):
            raise UserError(
                f"llama.cpp reads {heard.prompt_tokens} tokens of prompt and picture, the student "
                f"{len(question.input_ids)}, so it cuts this picture otherwise; ask about another, or {_ELSEWHERE}"
            )
        timings = heard.timings
        return WholeAnswer(heard.tokens, timings["prompt_ms"], timings["predicted_ms"], heard.top)

    def text_ms(self, tokens: int) -> float:
        """What a prompt of so many tokens takes without a picture; the rest of `prompt_ms` is the picture's."""
        request = {"prompt": [0] * tokens, "n_predict": 1, "cache_prompt": False}
        (reply,) = self._ask("/completion", request)
        return reply["timings"]["prompt_ms"]

    def tokenize(self, text: str) -> list[int]:
        """llama.cpp's ids of a text, special tokens among them."""
        (reply,) = self._ask("/tokenize", {"content": text, "add_special": False, "parse_special": True})
        return reply["tokens"]

    def text(self, ids: list[int], tokenizer: Tokenizer) -> str:
        """The text that says these ids to llama.cpp.

        Not the prompt's own: the tokenizer may have normalised that, which llama.cpp doesn't, and added tokens may have
        other names in the file.
        """
        added = tokenizer.get_added_tokens_decoder()
        texts: list[str] = []
        for is_added, tokens in itertools.groupby(ids, added.__contains__):
            run = list(tokens)
            texts += map(self._name, run) if is_added else [tokenizer.decode(run, skip_special_tokens=False)]
        return "".join(texts)

    def misread(self, ids: list[int], tokenizer: Tokenizer) -> str | None:
        """The words of a text, given as its ids, of which llama.cpp makes other ids; None where it makes the same."""
        text = self.text(ids, tokenizer)
        if "\0" in text:  # where text ends for llama.cpp's code for pictures
            return _around(text, text.index("\0"), text.index("\0") + 1)
        theirs = self.tokenize(text)
        if theirs == ids:
            return None
        shorter = min(len(ids), len(theirs))
        before = next((n for n in range(shorter) if ids[n] != theirs[n]), shorter)
        behind = next((n for n in range(shorter - before) if ids[-1 - n] != theirs[-1 - n]), shorter - before)
        # A token may be part of a character.
        start = len(self.text(ids[:before], tokenizer).rstrip("\ufffd"))
        end = len(text) - len(self.text(ids[len(ids) - behind :], tokenizer).lstrip("\ufffd"))
        return _around(text, start, end)

    def _name(self, token: int) -> str:
        """What an added token is called in the file."""
        if token not in self._names:
            (reply,) = self._ask("/detokenize", {"tokens": [token]})
            self._names[token] = reply["content"]
        return self._names[token]

    def _ask(self, path: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """llama.cpp's reply: its pieces as they come where the request is a stream, or one. Left early, it stops."""
        connection = _Local(self._socket)
        try:
            connection.request("POST", path, json.dumps(request), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                error = json.loads(response.read())["error"]["message"]
                raise _failure(error)
            if not request.get("stream"):
                yield json.loads(response.read())
                return
            for line in response:
                if line.startswith(b"data: {"):
                    yield json.loads(line.removeprefix(b"data: "))
        finally:
            connection.close()

    def _media(self, question: WholeQuestion) -> tuple[list[list[int]], list[Image.Image]]:
        """The ids of the text before, between and behind the pictures, and the pictures."""
        frames, ids = self._frames(question.seen), question.input_ids
        image_token = self.settings.image_token_id
        if self.settings.layout == "frames":
            around: list[list[int]] = [[]]
            for before, token in itertools.pairwise([-1, *ids]):
                if token != image_token:
                    around[-1].append(token)
                elif before != image_token:
                    around.append([])
            places = len(around) - 1
            if places != len(frames):
                raise UserError(
                    f"the prompt has {places} places for frames, the picture {len(frames)} of them; the bundle's "
                    "settings don't fit each other: export it again"
                )
            return around, frames
        # What llama.cpp writes next to a picture by itself.
        replaces = self.settings.replaces.replace(question.placeholder, question.image_text)
        theirs = question.tokenizer.encode(replaces, add_special_tokens=False).ids
        first = ids.index(image_token) - theirs.index(image_token) if image_token in ids else -1
        last = first + len(theirs)
        if first < 0 or ids[first:last] != theirs:
            raise UserError(
                f"the chat template writes no {self.settings.replaces!r}, which llama.cpp puts around a picture; "
                f"{_ELSEWHERE}"
            )
        return [ids[:first], ids[last:]], [_joined(question.seen, frames)]

    def picture(self, question: WholeQuestion) -> Image.Image | None:
        """The one picture that llama.cpp gets to cut by itself; None where frames are handed over one by one."""
        _, pictures = self._media(question)
        return None if self.settings.layout == "frames" else pictures[0]

    def _frames(self, seen: Seen) -> list[Image.Image]:
        """The pixels the student sees as pictures again; exact, as they were whole numbers before."""
        pixels = seen.inputs["pixel_values"]
        if "image_grid_thw" in seen.inputs:
            return [Image.fromarray(self._whole_numbers(_unpatched(seen, self._pixels)))]
        return [Image.fromarray(self._whole_numbers(frame)) for frame in pixels.reshape(-1, *pixels.shape[-3:])]

    def _whole_numbers(self, frame: np.ndarray) -> np.ndarray:
        """float32 [3, height, width] as normalised -> uint8 [height, width, 3]."""
        values = np.moveaxis(frame, 0, -1).astype(np.float64)
        if self._pixels.get("do_normalize", True):
            values = values * np.asarray(self._pixels["image_std"]) + np.asarray(self._pixels["image_mean"])
        if self._pixels.get("do_rescale", True):
            values = values / self._pixels.get("rescale_factor", 1 / 255)
        return np.rint(values).clip(0, 255).astype(np.uint8)


def _failure(reason: str) -> UserError:
    return UserError(f"llama.cpp can't answer ({reason}); {_ELSEWHERE}")


class _Heard:
    """What came from llama.cpp so far while it answers."""

    def __init__(self, stop_ids: Collection[int], on_token: Callable[[int], None]) -> None:
        self.tokens: list[int] = []
        self.top: dict[int, dict[int, float]] = {}
        self.timings: dict[str, float] = {}
        self.prompt_tokens = 0
        self.gap = False
        self._stop_ids, self._on_token = stop_ids, on_token

    @property
    def stopped(self) -> bool:
        return bool(self.tokens) and self.tokens[-1] in self._stop_ids

    def hear(self, piece: dict[str, Any]) -> None:
        """Take the next piece: a token, or the end."""
        if "error" in piece:
            raise _failure(piece["error"]["message"])
        self.timings = piece.get("timings") or self.timings
        self.prompt_tokens = piece["tokens_evaluated"]
        self.gap = self.gap or piece["tokens_predicted"] > len(self.tokens) + len(piece["tokens"])
        for chances in piece.get("completion_probabilities", []):
            place = piece["tokens_predicted"] - 1
            found = {entry["id"]: entry["logprob"] for entry in chances["top_logprobs"]}
            # JSON has no NaN: llama.cpp's writes null.
            self.top[place] = {token: float("nan") if value is None else value for token, value in found.items()}
        if piece["tokens"] and not self.gap:
            self._add(piece["tokens"][0])

    def complete(self, tokens: list[int]) -> None:
        """Take the ids of the whole answer, and say those that were not heard yet."""
        for token in tokens[len(self.tokens) :]:
            if not self.stopped:
                self._add(token)

    def _add(self, token: int) -> None:
        self.tokens.append(token)
        self._on_token(token)


class _Local(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def _joined(seen: Seen, frames: list[Image.Image]) -> Image.Image:
    """One picture of the frames in rows and columns, without the small copy that comes last: llama.cpp makes one."""
    rows, columns = getattr(seen, "rows", 0), getattr(seen, "columns", 0)
    if len(frames) == 1:
        return frames[0]
    if len(frames) != rows * columns + 1:
        raise UserError(
            f"{len(frames)} frames can't be joined to {rows} rows of {columns}; the bundle's settings don't fit each "
            "other: export it again"
        )
    width, height = frames[0].size
    whole = Image.new("RGB", (width * columns, height * rows))
    for index, frame in enumerate(frames[:-1]):
        whole.paste(frame, (index % columns * width, index // columns * height))
    return whole


def _unpatched(seen: Seen, settings: Mapping[str, Any]) -> np.ndarray:
    """Qwen's flat patches, block after block, as one picture again: float32 [3, height, width]."""
    _, rows, columns = (int(side) for side in seen.inputs["image_grid_thw"][0])
    merge, patch, frames = settings["merge_size"], settings["patch_size"], settings.get("temporal_patch_size", 2)
    blocks = seen.inputs["pixel_values"].reshape(
        rows // merge, columns // merge, merge, merge, -1, frames, patch, patch
    )
    picture = blocks[..., 0, :, :].transpose(4, 0, 2, 5, 1, 3, 6)
    return picture.reshape(-1, rows * patch, columns * patch)


def _around(text: str, start: int, end: int) -> str:
    """The words of a text that lie between two places, whole."""
    blank = re.compile(r"\s")
    start = max((found.end() for found in blank.finditer(text, 0, start)), default=0)
    found = blank.search(text, max(start, end))
    return text[start : found.start() if found else None].strip() or text[start:end]


def _bmp(picture: Image.Image) -> str:
    """As it is, in base64: packing it up would take longer than handing it over."""
    buffer = io.BytesIO()
    picture.save(buffer, "BMP")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
