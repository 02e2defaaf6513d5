"""A distilled student on a device: load a bundle, ask about a picture, read the answer as it comes.

    student = Student.load(Path("bundle"))
    print(student.answer(Path("photo.jpg"), "what is this?").text)

    photo = student.look(Path("photo.jpg"))  # once, for several questions
    print(student.answer(photo, "what is this?").text, student.answer(photo, "what colour is it?").text)

Greedy decoding, one question at a time, no torch. Every stage is timed where it happens.
"""

import os
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from masters_edge.common import cpu, inside
from masters_edge.common.errors import UserError, reason
from masters_edge.runtime import images, settings
from masters_edge.runtime.backends import Backend, WholeBackend, WholeQuestion
from masters_edge.runtime.families import Seen, open_family
from masters_edge.runtime.opening import open_backend
from masters_edge.runtime.prompt import Prompt
from masters_edge.runtime.text import TextStream

MAX_CHARACTERS = 1_000_000  # of a question; a long novel, which no student here reads
MAX_NEW_TOKENS = 128  # where neither the caller nor the student's generation settings say


@dataclass(frozen=True)
class Answer:
    """An answer and what it cost, in milliseconds.

    `token_ids` end with the id that stopped the answer, if one did. `ttft_ms` runs from the question being asked to
    its first token being known, and includes preprocessing, vision and prefill. `prefill_ms` is the decoder's run
    over the whole prompt. `decode_tokens` counts the steps after it; `decode_tokens_per_s` is None when there was none.
    """

    text: str
    token_ids: list[int]
    prompt_tokens: int
    preprocess_ms: float
    vision_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_tokens: int
    decode_tokens_per_s: float | None
    total_ms: float


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that a student has looked at, to be asked about again and again.

    `features`: float32 [image tokens, width]; None where the runtime answers whole and looks by itself.
    """

    seen: Seen
    features: np.ndarray | None


@dataclass(frozen=True)
class _Course:
    """How an answer came about: its ids, what picture and steps after the first token took in milliseconds, and moments
    of `time.perf_counter`."""

    token_ids: list[int]
    vision_ms: float
    decode_ms: float
    first_at: float
    ended: float


class Student:
    """A loaded bundle, not safe to share between threads.

    Example:
        >>> import masters_edge
        >>> student = masters_edge.Student.load("runs/my/bundles/onnx-int4")
        >>> student.answer("photo.jpg", "what shape is it?").text
        '...'

    `backend` runs it (its three parts, or all of it at once), `family` knows what a picture becomes, `prompt` has the
    template and the tokenizer. `exact` asks the runtime for its most exact arithmetic, as the parity gate does, in
    place of the fast one that ships. The backend is given by name, or opened already.
    """

    def __init__(
        self,
        folder: Path,
        graphs: dict[str, str],
        target: str,
        backend: str | Backend | WholeBackend = "auto",
        threads: int | None = None,
        exact: bool = False,
    ) -> None:
        self.folder = folder
        self.threads = free_threads() if threads is None else threads
        if self.threads < 1:
            raise UserError(f"threads is {threads}; it must be 1 or more")
        self.prompt = Prompt(folder)
        config = settings.read(folder, "config.json", settings.Config)
        generation = settings.read(folder, "generation_config.json", settings.Generation)
        self.family = open_family(config.masters_edge_model_type or config.model_type, folder)
        self.embeddings = config.text_config.vocab_size
        self.max_new_tokens = generation.max_new_tokens or MAX_NEW_TOKENS
        stop = generation.eos_token_id
        self.stop_ids = frozenset(stop if isinstance(stop, list) else [] if stop is None else [stop])
        if isinstance(backend, str):
            backend = open_backend(backend, target, folder, graphs, self.threads, exact)
        self.backend: Any = backend  # a Backend, or a WholeBackend
        # Tokens of prompt and answer; a bundle of static graphs may hold fewer than the student could.
        reads = config.text_config.max_position_embeddings
        self.context = min(reads, getattr(backend, "context", reads))
        self._text_ms_of: dict[int, float] = {}
        self._cached: tuple[Picture | None, list[int]] = (None, [])  # what the KV cache was filled from

    @classmethod
    def load(
        cls, bundle: Path | str, backend: str = "auto", threads: int | None = None, check: bool = True
    ) -> "Student":
        """Open a bundle, its hashes checked unless `check` is False.

        `threads`: inside one operator; None takes OMP_NUM_THREADS, or else every core this process may use. Raises
        UserError for a missing, changed or newer bundle, or an unknown backend.
        """
        from masters_edge.bundle import manifest as manifests

        folder = Path(bundle)
        manifest = manifests.check(folder) if check else manifests.read(folder)
        return cls(folder, manifest.graphs, manifest.target, backend, threads)

    def look(self, image: Image.Image | Path | str) -> Picture:
        """See a picture once for several questions: what they share is then computed once, where the runtime can.

        Raises UserError for an unreadable image.
        """
        opened = images.open_image(image)
        with _fitting(self.folder):
            seen = self.family.look(opened)
            return Picture(seen, None if self._whole_backend else self.backend.vision(seen.inputs))

    def answer(
        self,
        image: Image.Image | Path | str | Picture,
        question: str,
        max_new_tokens: int | None = None,
        on_text: Callable[[str], None] | None = None,
        exactly: int | None = None,
    ) -> Answer:
        """Answer one question about one image, greedily; `on_text` hears the text piece by piece.

        `exactly` so many tokens, whatever they are, in place of an answer that ends where the student ends it: that is
        how speed is compared. A `Picture` was looked at before, so preprocessing and vision take no time here, nor does
        what its prompt shares with the one before, where the runtime can keep that. Raises UserError for an unreadable
        image, or a prompt longer than the student's context.
        """
        started = time.perf_counter()
        picture = image if isinstance(image, Picture) else None
        asked = self.ask(image, question)
        limit = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        room = self.context - len(asked.input_ids)
        if room < 1:
            self._refuse_length(asked)
        if limit < 1:
            raise UserError(f"max_new_tokens is {limit}; it must be 1 or more")
        if exactly is not None and not 1 <= exactly <= room:
            raise UserError(f"exactly {exactly} tokens are asked for; the student has room for 1 to {room}")
        seen_from = time.perf_counter()
        stream = TextStream(self.prompt.tokenizer, on_text)
        way = self._whole if self._whole_backend else self._by_parts
        stop_ids: Set[int] = self.stop_ids if exactly is None else frozenset()
        course = way(asked, picture, exactly or min(limit, room), stop_ids, stream)
        steps = len(course.token_ids) - 1
        ttft_ms, preprocess_ms = 1000 * (course.first_at - started), 1000 * (seen_from - started)
        return Answer(
            text=stream.finish(),
            token_ids=course.token_ids,
            prompt_tokens=len(asked.input_ids),
            preprocess_ms=preprocess_ms,
            vision_ms=course.vision_ms,
            prefill_ms=ttft_ms - preprocess_ms - course.vision_ms,
            ttft_ms=ttft_ms,
            decode_tokens=steps,
            decode_tokens_per_s=1000 * steps / course.decode_ms if steps else None,
            total_ms=1000 * (course.ended - started),
        )

    def check_question(self, question: str) -> None:
        """Raises UserError for what can't be a question, before anything is made of it; any thread may ask.

        So many tokens as the student reads are at most so many characters: what is longer takes a tokenizer seconds and
        gigabytes, or its life.
        """
        try:
            question.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"character {error.start + 1} of the question is half of one (a lone surrogate); write it anew"
            ) from None
        if len(question) > min(self.context, MAX_CHARACTERS):  # else the tokens will be counted
            long = len(question) > MAX_CHARACTERS
            most = MAX_CHARACTERS if long else min(MAX_CHARACTERS, self.context * self.prompt.longest_token)
            if len(question) > most:
                raise UserError(
                    f"the question has {len(question):,} characters; the student reads {self.context:,} tokens, which "
                    f"hold {most:,} at most: ask a shorter question"
                )

    def ask(self, image: Image.Image | Path | str | Picture, question: str) -> WholeQuestion:
        """The picture preprocessed and the prompt tokenized; raises UserError for a token that has no embedding."""
        self.check_question(question)
        opened = image if isinstance(image, Picture) else images.open_image(image)
        with _fitting(self.folder):
            seen = opened.seen if isinstance(opened, Picture) else self.family.look(opened)
            placeholder, image_text = self.family.placeholder, self.family.image_text(seen)
            ids = self.prompt.ids(question, placeholder, image_text)
        unknown = next((token for token in ids if token >= self.embeddings), None)
        if unknown is not None:
            raise UserError(
                f"the question contains {self.prompt.tokenizer.id_to_token(unknown)}, token {unknown}, and the student "
                f"has embeddings for {self.embeddings} tokens only; leave it out"
            )
        return WholeQuestion(seen, placeholder, image_text, ids, self.prompt.tokenizer)

    def _refuse_length(self, asked: WholeQuestion) -> NoReturn:
        """Say of a prompt that leaves no room for an answer what can be made shorter."""
        tokens = len(asked.input_ids)
        if len(self.prompt.ids("", asked.placeholder, asked.image_text)) < self.context:
            raise UserError(f"the prompt has {tokens} tokens, the student reads {self.context}; ask a shorter question")
        of_image = asked.input_ids.count(self.family.image_token_id)
        raise UserError(
            f"the prompt has {tokens} tokens, {of_image} of them the image's, and the student reads {self.context}; "
            "give a smaller or a narrower image"
        )

    @property
    def _whole_backend(self) -> bool:
        return hasattr(self.backend, "answer")

    def _by_parts(
        self, asked: WholeQuestion, picture: Picture | None, limit: int, stop_ids: Set[int], stream: TextStream
    ) -> "_Course":
        """Vision, prefill, then token by token."""
        started = time.perf_counter()
        features = None if picture is None else picture.features
        with _fitting(self.folder):
            if features is None:
                features = self.backend.vision(asked.seen.inputs)
            prefill_from = time.perf_counter()
            positions, position = self.family.positions(np.asarray([asked.input_ids], np.int64), asked.seen)
            shared = _shared(self._cached[1], asked.input_ids) if picture and picture is self._cached[0] else 0
            token = self.best(self.prefill(asked.input_ids, features, positions, shared))
        self._cached = (picture, asked.input_ids)
        first_at = time.perf_counter()
        token_ids = [token]
        stream.feed(token)
        decode_from = time.perf_counter()
        while token not in stop_ids and len(token_ids) < limit:
            with _fitting(self.folder):
                token = self.best(self.step(token, np.full((*positions.shape[:-1], 1), position, np.int64)))
            position += 1
            token_ids.append(token)
            stream.feed(token)
        ended = time.perf_counter()
        return _Course(token_ids, 1000 * (prefill_from - started), 1000 * (ended - decode_from), first_at, ended)

    def _whole(
        self, asked: WholeQuestion, picture: Picture | None, limit: int, stop_ids: Set[int], stream: TextStream
    ) -> "_Course":
        """All of it by a runtime's own code, which times picture and prompt together."""
        firsts: list[float] = []

        def hear(token: int) -> None:
            if not firsts:
                firsts.append(time.perf_counter())
            stream.feed(token)

        heard = hear if stream.listening or stop_ids else None
        found = self.backend.answer(asked, limit, stop_ids, heard)
        ended = time.perf_counter()
        if not firsts:  # it came in one piece
            for token in found.token_ids:
                stream.feed(token)
            firsts.append(ended - found.decode_ms / 1000)
        # How long the prompt takes without its picture is asked once for each length, outside of what is timed.
        vision_ms = max(0.0, found.prompt_ms - self._text_ms(len(asked.input_ids)))
        return _Course(found.token_ids, vision_ms, found.decode_ms, firsts[0], ended)

    def _text_ms(self, tokens: int) -> float:
        if tokens not in self._text_ms_of:
            self._text_ms_of[tokens] = self.backend.text_ms(tokens)
        return self._text_ms_of[tokens]

    def best(self, logits: np.ndarray) -> int:
        """The likeliest next token of float32 [vocab]; never an image placeholder, which has no picture behind it.

        Raises UserError where the runtime computed no numbers: else it would answer the first token for ever.
        """
        token = int(logits.argmax())
        if np.isnan(logits[token]):  # the place of the first NaN, if there is one
            raise UserError(
                f"on {self.backend.name} the student's numbers are not finite, so it has no answer; take another "
                "backend, or export it again with --quant fp32"
            )
        if token == self.family.image_token_id:
            logits = logits.copy()
            logits[token] = -np.inf
            token = int(logits.argmax())
        return token

    def prefill(self, ids: list[int], features: np.ndarray, positions: np.ndarray, shared: int = 0) -> np.ndarray:
        """Run the decoder over the prompt, image features in place; logits float32 [vocab] of its last token.

        `features`: float32 [image tokens, width]; `positions`: int64 [1, tokens] or [3, 1, tokens]. The KV cache holds
        the first `shared` tokens already; a backend that can keep them does.
        """
        kept = self.backend.start(shared)
        seen = ids[:kept].count(self.family.image_token_id)
        embeds = self.merge(np.asarray([ids[kept:]], np.int64), features[seen:])
        return self.backend.forward(embeds, positions[..., kept:], last=True)[0, -1]

    def merge(self, input_ids: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Embeddings float32 [1, tokens, width] of int64 [1, tokens], image placeholders replaced by the features."""
        embeds = self.backend.embed(input_ids)
        places = input_ids == self.family.image_token_id
        if int(places.sum()) != len(features):
            raise UserError(
                f"the prompt has {int(places.sum())} places for image features, the image makes {len(features)}; "
                "the bundle's processor settings don't fit its graphs: export it again"
            )
        embeds[places] = features
        return embeds

    def step(self, token: int, position: np.ndarray) -> np.ndarray:
        """One more token into the decoder, at int64 [1, 1] or [3, 1, 1]; logits float32 [vocab] of the next."""
        return self.backend.forward(self.backend.embed(np.asarray([[token]], np.int64)), position, last=True)[0, -1]


@contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    """What the settings and graphs of a stranger's bundle make the code here raise, as one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{folder}: its settings don't fit its graphs ({reason(error)}); {inside.AGAIN}") from error


def _shared(before: list[int], now: list[int]) -> int:
    """How many tokens two prompts begin with alike, the last one of `now` left to compute."""
    alike = (index for index, pair in enumerate(zip(before, now)) if pair[0] != pair[1])
    return min(next(alike, min(len(before), len(now))), len(now) - 1)


def free_threads() -> int:
    """OMP_NUM_THREADS where it is set, else the number of cores this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else cpu.usable_cores()
