"""How lmms-eval reads a row of easy_vqa.jsonl: {"id", "image", "question", "answer"}, the image's path relative."""

from PIL import Image


def doc_to_visual(doc):
    """The picture as it is, as the only one of the question."""
    with Image.open(doc["image"]) as image:
        return [image.convert("RGB")]


def doc_to_text(doc):
    """The question alone: the student learned no instructions around it."""
    return doc["question"]
