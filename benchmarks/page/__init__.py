"""What a browser runs to measure a student, and the server that serves it: `bench --device browser` and `adb:`.

`web/` is the page (no build step), `assets/` what npm has of transformers.js and onnxruntime-web (`assets.py`).
`server.py` starts the server with its `link.py` and certificate (`https.py`), `app.py` has the routes behind `gate.py`,
`desk.py` is where the measuring host and the page meet, `messages.py` what they may say to each other. `handout.py` is
what a page is given of a job, `record.py` what it sends, as raw files; `compare.py` asks Python's runtime the same.
"""
