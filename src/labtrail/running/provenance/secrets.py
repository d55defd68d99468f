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
_TEXT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY"
    rb"|\bAKIA[0-9A-Z]{16}\b"
    rb"|\bgh[pousr]_[A-Za-z0-9]{36}"
    rb"|\bgithub_pat_\w{40,}"
    rb"|\bglpat-[\w-]{20}"
    rb"|\bhf_[A-Za-z0-9]{30,}"
    rb"|\bsk-[A-Za-z0-9_-]{32,}"
    rb"|\bxox[abpr]-[A-Za-z0-9-]{20,}"
    rb"|://[^/\s:@'\"{}$<]+:[^/\s:@'\"{}$<]+@[\w.-]"
    rb"|(?i:password|passwd|api_?key|secret|access_?token|auth_?token)\w*['\"]?\s*[=:]\s*['\"][^'\"\s{}$<]{6,}['\"]"
)


def why_secret(name: str, text: bytes) -> str:
    """Why a file may hold a secret; empty if nothing says so.

    Args:
        name: of the file; folders above it do not count.
        text: what is searched: the whole file, or the lines that are new.
    """
    last = PurePosixPath(name).name.lower()
    if not last.endswith(_CODE) and any(fnmatch.fnmatchcase(last, pattern) for pattern in _NAMES):
        return "may hold a secret, by its name"
    return "may hold a secret, by its text" if _TEXT.search(text) else ""
