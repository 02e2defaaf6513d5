"""The page to try a student with: one HTML document with its style and script inside, and a policy that allows no more.

`page.html` has a place for `page.css` and one for `picture.js` and `page.js`; both are allowed by their hash alone.
"""

import base64
import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

_FOLDER = Path(__file__).parent


class Page:
    """The document, put together once."""

    def __init__(self) -> None:
        html, css, *scripts = (
            (_FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "picture.js", "page.js")
        )
        script = "\n".join(scripts)
        self._html = html.replace("/*page.css*/", css).replace("/*script*/", script)
        self._headers = {
            "Content-Security-Policy": "; ".join(
                (
                    "default-src 'none'",
                    f"script-src {_hash(script)}",
                    f"style-src {_hash(css)}",
                    "connect-src 'self'",
                    "img-src blob: data:",
                    "media-src blob:",
                    "base-uri 'none'",
                    "form-action 'none'",
                    "frame-ancestors 'none'",
                    "require-trusted-types-for 'script'",
                )
            ),
            "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
            "Cross-Origin-Opener-Policy": "same-origin",
        }

    async def respond(self, request: Request) -> Response:
        return HTMLResponse(self._html, headers=self._headers)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
