"""What looks like a secret, and is therefore not copied anywhere."""

import fnmatch
import re
from pathlib import PurePosixPath

_NAMES = (
    ".env",
    ".env.*",
    "*.env",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.kdbx",
    "*.keystore",
    "id_rsa*",
    "id_ed25519*",
    "id_ecdsa*",
    ".netrc",
    "_netrc",
    ".pgpass",
    ".npmrc",
    ".pypirc",
    ".htpasswd",
    ".git-credentials",
    "credentials",
    "credentials.*",
    "*_credentials*",
    "*-credentials*",
    "secret",
    "secrets",
    "secret.*",
    "secrets.*",
    "token",
    "token.*",
    "*_token",
    "*_token.*",
    "service-account*.json",
)
# Code is named by what it is about: tokens of a text, secrets that are looked for.
_CODE = (".py", ".pyi", ".pyx", ".ipynb", ".md", ".rst")
_ASSIGNED = rb"\w*['\"]?\s*[=:]\s*['\"][^'\"\s{}$<]{6,}['\"]"
# A word in small letters -> what it is a secret by; a search for a plain word takes a fraction of one for a pattern.
_TEXT = {
    b"private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY"),
    b"akia": re.compile(rb"\bAKIA[0-9A-Z]{16}\b"),
    b"gh": re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{36}"),
    b"github_pat_": re.compile(rb"\bgithub_pat_\w{40,}"),
    b"glpat-": re.compile(rb"\bglpat-[\w-]{20}"),
    b"hf_": re.compile(rb"\bhf_[A-Za-z0-9]{30,}"),
    b"sk-": re.compile(rb"\bsk-[A-Za-z0-9_-]{32,}"),
    b"xox": re.compile(rb"\bxox[abpr]-[A-Za-z0-9-]{20,}"),
    b"://": re.compile(rb"://[^/\s:@'\"{}$<]+:[^/\s:@'\"{}$<]+@[\w.-]"),
    **{
        word: re.compile(rb"(?i:" + pattern + rb")" + _ASSIGNED)
        for word, pattern in {
            b"passw": rb"password|passwd",
            b"api": rb"api_?key",
            b"secret": rb"secret",
            b"token": rb"access_?token|auth_?token",
        }.items()
    },
}


def why_secret(name: str, text: bytes) -> str:
    """Why a file may hold a secret; empty if nothing says so.

    Args:
        name: of the file; folders above it do not count.
        text: what is searched: the whole file, or the lines that are new.
    """
    last = PurePosixPath(name).name.lower()
    if not last.endswith(_CODE) and any(fnmatch.fnmatchcase(last, pattern) for pattern in _NAMES):
        return "may hold a secret, by its name"
    lowered = text.lower()
    has_secret = any(word in lowered and pattern.search(text) for word, pattern in _TEXT.items())
    return "may hold a secret, by its text" if has_secret else ""
