"""Serve a bundle: an OpenAI-compatible endpoint, and a page to try the student with one's own pictures.

A request goes `gate` (whom it is addressed to) -> `app` -> `requests` (what may be asked) -> `question_queue`
(one question at a time) -> `replies`. Torch-free, and nothing of starlette or uvicorn is imported before
`command.serve` runs.
"""
