"""Self-contained HTML pages and their shared style and script."""

import base64
import hashlib
from pathlib import Path

_FOLDER = Path(__file__).parent


def html_page(
  *, title: str, style: str, script: str, body: str, loads_nothing: bool = False
) -> str:
  """Returns a page as a single file that can be mailed and archived.

  Args:
    title: title and heading, as HTML.
    style: CSS to append to `heat_map.css`.
    script: JavaScript to append to `heat_map.js`, at the end of the page.
    body: HTML of the body without its heading.
    loads_nothing: forbid network requests and inline styles by a
      Content-Security-Policy; web workers may run.
  """
  style = (_FOLDER / "heat_map.css").read_text("utf-8") + style
  script = (_FOLDER / "heat_map.js").read_text("utf-8") + script
  policy = (
    f"default-src 'none'; style-src '{_digest(style)}'; "
    f"script-src '{_digest(script)}'; worker-src blob:"
  )
  meta = '<meta http-equiv="Content-Security-Policy" content="{}">'
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    f"{meta.format(policy) if loads_nothing else ''}"
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{title}</title><style>{style}</style></head><body>"
    f"<h1>{title}</h1>\n{body}<script>{script}</script></body></html>\n"
  )


def json_for_script(text: str) -> str:
  """Escapes JSON so that it cannot close the `<script>` around it."""
  return text.replace("<", "\\u003c")


def _digest(text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  return f"sha256-{base64.b64encode(digest).decode()}"
