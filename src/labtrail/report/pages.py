"""Self-contained pages: a template, a script and data in one HTML file that needs no network."""

import base64
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_UNPACK = Path(__file__).with_name("unpack.js")


def filled(template: Path, script: Path, facts: Mapping[str, Any], packed: Mapping[str, bytes]) -> str:
    """The page as HTML.

    Args:
        template: HTML with ``@FACTS@``, ``@SCRIPT@`` and a place ``@NAME@`` for each packed part.
        script: JavaScript; it may call ``unpack(id)``, which gives the bytes of a packed part.
        facts: small data, as JSON.
        packed: name -> large data; compressed and in base64 where they stand.
    """
    parts = {f"@{name}@": _compressed(content) for name, content in packed.items()}
    parts["@FACTS@"] = json.dumps(facts, ensure_ascii=True).replace("<", "\\u003c")
    parts["@SCRIPT@"] = _UNPACK.read_text(encoding="utf-8") + script.read_text(encoding="utf-8")
    page = template.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(name, text)
    return page


def _compressed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode()
