# ruff: noqa: E402
"""Make the demo's two checkpoints: a good teacher, and a student that is weak but not random.

    python recipes/demo/make_models.py teacher recipes/demo/teacher      # about 40 minutes on one core
    python recipes/demo/make_models.py student recipes/demo/student      # about three minutes
    python recipes/demo/make_models.py middle runs/middle                # about ten minutes; for a chain of teachers

Both are SmolVLM models with a tokenizer trained here, saved as any checkpoint. There is no hub behind the demo, so they
stand in for what a user would download. The **teacher** learns easy-VQA's official training questions from their
labels: first the vision encoder alone (name the shape and the colour), then the whole model on questions and captions,
with images shifted and mirrored. The **student** has never seen easy-VQA: it learns from shapes drawn by this script
(other backgrounds, outlines, tilted and stretched shapes, shades of a colour) and from four plain ways of asking, so it
knows what a shape is and how to answer, but not this data set's images, its wordings or its negations.
"""

from masters_edge.common.quiet import hush

hush()  # before torch is imported

import argparse
import collections
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter
from torch import nn
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor

from masters_edge.common.quiet import hush_transformers
from masters_edge.data import easy_vqa
from masters_edge.data.records import open_image
from masters_edge.families import processors

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}
CAPTION = "describe the image."
IMAGE_SIDE = 64  # pixels
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
SIZES = {
    "teacher": dict(hidden=192, vision_layers=4, text_layers=3, heads=4),
    "middle": dict(hidden=128, vision_layers=3, text_layers=3, heads=4),  # a teacher between the two, for a chain
    "student": dict(hidden=64, vision_layers=3, text_layers=2, heads=4),
}


def make_processor() -> SmolVLMProcessor:
    """A byte-level BPE tokenizer of easy-VQA's words, and SmolVLM's own image processor at 64 pixels."""
    special = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>"]
    special += ["<image>", "<fake_token_around_image>", "<global-img>"]
    texts = [f"User:{q.text} Assistant: {q.answer}" for q in easy_vqa.read("train")]
    texts += [f"{CAPTION} Assistant: {colour} {shape}" for colour in COLOURS for shape in SHAPES] * 100
    tokenizer = processors.tokenizer(
        texts,
        448,
        special,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens=processors.NAMED_TOKENS["smolvlm"],
    )
    side = {"longest_edge": IMAGE_SIDE}
    images = dict(size=side, max_image_size=side, do_image_splitting=False)
    return processors.processor("smolvlm", tokenizer, images, image_seq_len=16, chat_template=CHAT_TEMPLATE)


def make_model(size: str, processor: SmolVLMProcessor) -> SmolVLMForConditionalGeneration:
    shape, tokenizer = SIZES[size], processor.tokenizer
    tokens = dict(
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    untyped: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id}  # not among its annotations
    config = SmolVLMConfig(
        image_token_id=processor.image_token_id,
        scale_factor=2,
        **untyped,
        tie_word_embeddings=True,
        vision_config=dict(
            hidden_size=shape["hidden"],
            intermediate_size=2 * shape["hidden"],
            num_hidden_layers=shape["vision_layers"],
            num_attention_heads=shape["heads"],
            image_size=IMAGE_SIDE,
            patch_size=8,
        ),
        text_config=dict(
            model_type="llama",
            hidden_size=shape["hidden"],
            intermediate_size=2 * shape["hidden"],
            num_hidden_layers=shape["text_layers"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["heads"] // 2,
            vocab_size=len(tokenizer),
            max_position_embeddings=256,
            tie_word_embeddings=True,
            **tokens,
        ),
    )
    model = SmolVLMForConditionalGeneration(config)
    model.generation_config.update(**tokens, do_sample=False)
    return model


class Sample(tuple):
    """(image index, question, answer)."""


def prompts(processor: SmolVLMProcessor, questions: set[str]) -> dict[str, list[int]]:
    """Token ids of each question's whole prompt, image placeholders expanded."""
    blank = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE))
    ids = {}
    for text in sorted(questions):
        chat: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
        ids[text] = processor(text=prompt, images=[blank])["input_ids"][0]
    return ids


def batch(samples: list[Sample], prompt_ids: dict, processor: SmolVLMProcessor) -> dict[str, torch.Tensor]:
    """Right-padded prompt + answer + end of utterance; labels only on the answer."""
    tokenizer, rows, labels = processor.tokenizer, [], []
    for _, question, answer in samples:
        response = tokenizer(f" {answer}")["input_ids"] + [tokenizer.eos_token_id]
        rows.append(prompt_ids[question] + response)
        labels.append([-100] * len(prompt_ids[question]) + response)
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([r + [tokenizer.pad_token_id] * (longest - len(r)) for r in rows]),
        "attention_mask": torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows]),
        "labels": torch.tensor([r + [-100] * (longest - len(r)) for r in labels]),
    }


def shifted(images: torch.Tensor) -> torch.Tensor:
    """The batch moved by up to 10 pixels and mirrored half of the time."""
    dx, dy = random.randint(-10, 10), random.randint(-10, 10)
    wide = torch.roll(F.pad(images, (16, 16, 16, 16), mode="replicate"), (dy, dx), (2, 3))
    images = wide[:, :, 16 : 16 + IMAGE_SIDE, 16 : 16 + IMAGE_SIDE]
    return images.flip(3) if random.random() < 0.5 else images


def cosine(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    return peak * min(1.0, (step + 1) / warmup) * 0.5 * (1 + np.cos(np.pi * step / steps))


def warm_vision(model, images, shape, colour, steps: int, augment) -> None:
    """Teach the vision encoder alone to tell shapes and colours, with two throw-away heads."""
    tower = model.model.vision_model
    width = model.config.vision_config.hidden_size
    heads = nn.ModuleList([nn.Linear(width, len(SHAPES)), nn.Linear(width, len(COLOURS))])
    optimizer = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], weight_decay=0.05)
    known = sorted(set(shape) & set(colour))
    names, started = list(COLOURS), time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, 1e-3)
        chosen = random.sample(known, 64)
        seen = tower(pixel_values=augment(images[chosen])).last_hidden_state.mean(1)
        loss = F.cross_entropy(heads[0](seen), torch.tensor([SHAPES.index(shape[i]) for i in chosen]))
        loss = loss + 0.5 * F.cross_entropy(heads[1](seen), torch.tensor([names.index(colour[i]) for i in chosen]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 200 == 199:
            print(f"vision encoder {step + 1}/{steps} loss {loss.item():.3f} {time.time() - started:.0f} s", flush=True)


@torch.no_grad()
def score(model, images, samples: list[Sample], prompt_ids: dict, processor) -> dict[str, float]:
    """Share of right greedy answers (exact match), by kind of question, in per cent."""
    model.eval()
    right: collections.Counter[str] = collections.Counter()
    asked: collections.Counter[str] = collections.Counter()
    by_length: dict[int, list[Sample]] = collections.defaultdict(list)
    for sample in samples:
        by_length[len(prompt_ids[sample[1]])].append(sample)
    for group in by_length.values():
        for start in range(0, len(group), 256):
            part = group[start : start + 256]
            out = model.generate(
                input_ids=torch.tensor([prompt_ids[q] for _, q, _ in part]),
                attention_mask=torch.ones(len(part), len(prompt_ids[part[0][1]]), dtype=torch.long),
                pixel_values=images[[i for i, _, _ in part]][:, None],
                max_new_tokens=4,
            )
            texts = processor.batch_decode(out[:, len(prompt_ids[part[0][1]]) :], skip_special_tokens=True)
            for text, (_, _, answer) in zip(texts, part, strict=True):
                kind = "yes/no" if answer in ("yes", "no") else "shape" if answer in SHAPES else "colour"
                asked[kind] += 1
                right[kind] += text.strip() == answer
    model.train()
    table = {kind: 100 * right[kind] / asked[kind] for kind in asked}
    return table | {"all": 100 * sum(right.values()) / sum(asked.values())}


def teach(model, images, pools, prompt_ids, processor, steps: int, peak: float, augment, report) -> None:
    """Cross-entropy on the answers; each step draws the same share from every pool."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.98))
    started, running = time.time(), 0.0
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, peak)
        samples = [s for pool, count in pools for s in random.choices(pool, k=count)]
        inputs = batch(samples, prompt_ids, processor)
        loss = model(pixel_values=augment(images[[i for i, _, _ in samples]])[:, None], **inputs).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running += loss.item()
        if step % 100 == 99:
            print(f"step {step + 1}/{steps} loss {running / 100:.4f} {time.time() - started:.0f} s", flush=True)
            running = 0.0
        if step % 1000 == 999:
            print(report(), flush=True)


def pixels(processor, images: list[Image.Image]) -> torch.Tensor:
    """float32 [images, 3, 64, 64], as SmolVLM's image processor makes them."""
    return torch.cat(
        [processor.image_processor([[i] for i in images[k : k + 500]], return_tensors="pt")["pixel_values"][:, 0]
         for k in range(0, len(images), 500)]
    )  # fmt: skip


def easy_vqa_samples(split: str) -> tuple[list[Image.Image], list[Sample]]:
    images: list[Image.Image] = []
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for question in easy_vqa.read(split):
        if question.image_id not in seen:
            seen[question.image_id] = len(images)
            images.append(open_image(question))
        samples.append(Sample((seen[question.image_id], question.text, question.answer)))
    return images, samples


def make_teacher(size: str, out: Path, steps: int, vision_steps: int, peak: float) -> None:
    processor = make_processor()
    model = make_model(size, processor)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    images, samples = easy_vqa_samples("train")
    test_images, test_samples = easy_vqa_samples("test")
    prompt_ids = prompts(processor, {q for _, q, _ in samples + test_samples} | {CAPTION})
    train_pixels, test_pixels = pixels(processor, images), pixels(processor, test_images)
    shape = {i: a for i, _, a in samples if a in SHAPES}
    colour = {i: a for i, _, a in samples if a in COLOURS}
    warm_vision(model, train_pixels, shape, colour, vision_steps, shifted)
    pools = [
        ([s for s in samples if s[2] == "yes"], 24),
        ([s for s in samples if s[2] == "no"], 24),
        ([s for s in samples if s[2] not in ("yes", "no")], 8),
        ([Sample((i, CAPTION, f"{colour[i]} {shape[i]}")) for i in sorted(set(shape) & set(colour))], 8),
    ]
    held = random.Random(1).sample(samples, 1500)
    report = lambda: f"  training questions: {score(model, train_pixels, held, prompt_ids, processor)}"  # noqa: E731
    teach(model, train_pixels, pools, prompt_ids, processor, steps, peak, shifted, report)
    save(model, processor, out)
    print("official test questions:", score(model, test_pixels, test_samples, prompt_ids, processor))


def draw(rng: random.Random) -> tuple[Image.Image, str, str]:
    """One shape unlike easy-VQA's: shaded ground, tilted or stretched, a shade of its colour, sometimes an outline."""
    shape, colour = rng.choice(SHAPES), rng.choice(sorted(COLOURS))
    side = IMAGE_SIDE * 2
    low, high = (tuple(rng.randint(150, 255) for _ in range(3)) for _ in range(2))
    ramp = np.linspace(0, 1, side)[:, None, None]
    ground = np.broadcast_to((1 - ramp) * np.array(low) + ramp * np.array(high), (side, side, 3))
    image = Image.fromarray(ground.astype(np.uint8)).rotate(90 * rng.randint(0, 3))
    fill = tuple(max(0, min(255, c + rng.randint(-25, 25))) for c in COLOURS[colour])
    layer = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    width, height = rng.uniform(20, 64), rng.uniform(20, 64)
    if shape == "circle":
        height = width * rng.uniform(0.8, 1.25)
    x, y = side / 2, side / 2
    box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    outline = (40, 40, 40, 255) if rng.random() < 0.3 else None
    pen = ImageDraw.Draw(layer)
    if shape == "circle":
        pen.ellipse(box, fill=(*fill, 255), outline=outline)
    elif shape == "rectangle":
        pen.rectangle(box, fill=(*fill, 255), outline=outline)
    else:
        tip = x + rng.uniform(-0.3, 0.3) * width
        pen.polygon([(box[0], box[3]), (box[2], box[3]), (tip, box[1])], fill=(*fill, 255), outline=outline)
    layer = layer.rotate(rng.uniform(-20, 20))
    image.paste(layer, (rng.randint(-36, 36), rng.randint(-36, 36)), layer)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))
    return image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS), shape, colour


def make_student(out: Path, steps: int, vision_steps: int, peak: float) -> None:
    processor = make_processor()
    model = make_model("student", processor)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f} M parameters")
    rng = random.Random(7)
    drawn = [draw(rng) for _ in range(4000)]
    shape, colour = ({i: d[k] for i, d in enumerate(drawn)} for k in (1, 2))
    what, yes, no = [], [], []
    for i in shape:
        what += [Sample((i, "what color is the shape?", colour[i])), Sample((i, "what shape is present?", shape[i]))]
        for form in ("is there a {} in the image?", "is a {} present?"):
            yes.append(Sample((i, form.format(f"{colour[i]} shape"), "yes")))
            yes.append(Sample((i, form.format(shape[i]), "yes")))
            no.append(Sample((i, form.format(rng.choice([c for c in COLOURS if c != colour[i]]) + " shape"), "no")))
            no.append(Sample((i, form.format(rng.choice([s for s in SHAPES if s != shape[i]])), "no")))
    captions = [Sample((i, CAPTION, f"{colour[i]} {shape[i]}")) for i in shape]
    test_images, test_samples = easy_vqa_samples("test")
    prompt_ids = prompts(processor, {q for _, q, _ in what + yes + no + captions + test_samples})
    train_pixels, test_pixels = pixels(processor, [d[0] for d in drawn]), pixels(processor, test_images)
    as_is = lambda images: images  # noqa: E731
    warm_vision(model, train_pixels, shape, colour, vision_steps, as_is)
    pools = [(what, 24), (yes, 12), (no, 12), (captions, 16)]
    held = random.Random(1).sample(what + yes + no, 1500)
    report = lambda: f"  its own questions: {score(model, train_pixels, held, prompt_ids, processor)}"  # noqa: E731
    teach(model, train_pixels, pools, prompt_ids, processor, steps, peak, as_is, report)
    save(model, processor, out)
    print("official test questions:", score(model, test_pixels, test_samples, prompt_ids, processor))


def save(model, processor, out: Path) -> None:
    model.eval().save_pretrained(out)
    processor.save_pretrained(out)
    print(f"saved {out}: {(out / 'model.safetensors').stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=SIZES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--vision-steps", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    random.seed(0)
    hush_transformers()
    if options.which == "student":
        make_student(options.out, options.steps or 1000, options.vision_steps or 600, options.learning_rate or 2e-3)
    else:
        steps = {"teacher": 3000, "middle": 1500}[options.which]
        make_teacher(
            options.which,
            options.out,
            options.steps or steps,
            options.vision_steps or 900,
            options.learning_rate or 1e-3,
        )


if __name__ == "__main__":
    main()
