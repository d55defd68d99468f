"""A small package that uses other code in every way that is followed, and edits of it."""

from pathlib import Path
from typing import NamedTuple

from labtrail.config import Config
from labtrail.running.provenance.code import CodeDigest, code_of
from labtrail.running.provenance.sources import Folder
from tests.workspace import REPOSITORY

FILES = {
    "lab/__init__.py": "",
    "lab/p/__init__.py": "from lab.p.deep import far\n",
    "lab/p/train.py": '''"""Doc."""
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING
from . import relative
from lab.p import far as renamed
from lab.p.star import *
from lab.p.config import MyConfig
import lab.p.chain as ch
from lab.p import made
from labtrail import lazy
if TYPE_CHECKING:
    from lab.p.handed import Late
_log = logging.getLogger("x")
LEFT, RATE = 1, 0.1
RATE *= 1
REGISTRY = {}
half = lambda x: x / 2
later = lazy("lab.p.addressed:named")
try:
    import missing_library as fast
except ImportError:
    def fast(x): return x
__all__ = ["train"]

@dataclass
class Options:
    width: int = 3

def train(config: MyConfig, given: "Late", n: int = 3) -> float:
    """Doc."""
    # comment
    from importlib import import_module
    from lab.p import lazy_module
    _log.info("start %s", n)
    value = helper(n) * RATE
    assert value > -1, "too low"
    if value < 0:
        raise ValueError("negative")
    other = import_module("lab.p.by_name")
    total = relative.one(value) + renamed() + starred() + ch.sub() + lazy_module.late() + config.method()
    return total + half(fast(later(other.f()))) + made.up + Options().width

def helper(n): return n + 1
def unused(): return 0
if __name__ == "__main__":
    print(train(None, None))
''',
    "lab/p/relative.py": "def one(x): return x\ndef two(x): return x\n",
    "lab/p/deep.py": "def far(): return 1\n",
    "lab/p/star.py": "def starred(): return 1\n",
    "lab/p/chain.py": "from lab.p.end import sub\n",
    "lab/p/end.py": "import torch\ndef sub(): return BASE\nBASE = 2\n",
    "lab/p/lazy_module.py": "def late(): return 1\n",
    "lab/p/handed.py": "class Late:\n    def go(self): return 1\n",
    "lab/p/addressed.py": "def named(x): return x\n",
    "lab/p/by_name.py": "def f(): return 1\n",
    "lab/p/made.py": "def __getattr__(name): return inner()\ndef inner(): return 1\n",
    "lab/p/plugin.py": "def network(): return 1\n",
    "lab/p/config.py": """from pydantic import BaseModel, Field
from labtrail import Config, Section
def fresh(): return 1
class Foreign(BaseModel):
    size: int = 1
class Inner(Section):
    depth: int = 2
    def check(self): return self.depth
class MyConfig(Config):
    rate: float = 0.1
    model: str = "lab.p.plugin:network"
    start: int = Field(default_factory=fresh)
    inner: Inner = Inner()
    foreign: Foreign = Foreign()
    def method(self): return self.rate
""",
}


class Edit(NamedTuple):
    """A change of one file, and whether it can change a number."""

    what: str
    file: str
    old: str
    new: str
    counts: bool


EDITS = [
    Edit("a comment", "train", "# comment", "# other", False),
    Edit("a docstring", "train", '    """Doc."""', '    """Other."""', False),
    Edit("formatting", "train", "return n + 1", "return (n  +  1)", False),
    Edit("a log message", "train", '"start %s"', '"begin %s"', False),
    Edit("an error message", "train", '"negative"', '"below 0"', False),
    Edit("an annotation", "train", "n: int = 3", "n: float = 3", False),
    Edit("an unused function", "train", "return 0", "return 9", False),
    Edit("an unused function of a used module", "relative", "def two(x): return x", "def two(x): return 2", False),
    Edit(
        "order of imports",
        "train",
        "import logging\nfrom dataclasses import dataclass",
        "from dataclasses import dataclass\nimport logging",
        False,
    ),
    Edit(
        "a new field of the config", "config", "    rate: float = 0.1", "    rate: float = 0.1\n    a: int = 0", False
    ),
    Edit("default of a field, which is in the key", "config", "rate: float = 0.1", "rate: float = 0.2", False),
    Edit("a module that nobody imports", "new", "", "x = 1\n", False),
    Edit("what is exported", "train", '__all__ = ["train"]', '__all__ = ["train", "helper"]', False),
    Edit("message of an assertion", "train", '"too low"', '"very low"', False),
    Edit("what a script does", "train", "print(train(None, None))", "print(1)", False),
    Edit("default of a nested field", "config", "depth: int = 2", "depth: int = 3", False),
    Edit("blank lines", "train", "def unused", "\n\n\ndef unused", False),
    Edit("a local name, a harmless alarm", "train", "value", "worth", True),
    Edit("a constant", "train", "RATE = 1, 0.1", "RATE = 1, 0.2", True),
    Edit("a constant that is changed", "train", "RATE *= 1", "RATE *= 2", True),
    Edit("a default argument", "train", "n: int = 3", "n: int = 4", True),
    Edit("a helper", "train", "n + 1", "n + 2", True),
    Edit("a relative import", "relative", "def one(x): return x", "def one(x): return -x", True),
    Edit("a re-export of a package", "deep", "return 1", "return 2", True),
    Edit("a star import", "star", "return 1", "return 2", True),
    Edit("a constant through a chain", "end", "BASE = 2", "BASE = 3", True),
    Edit("an import within a function", "lazy_module", "return 1", "return 2", True),
    Edit("a method of the config", "config", "return self.rate", "return 2 * self.rate", True),
    Edit("an effect of importing", "end", "import torch", "import torch\ntorch.set_default_dtype(torch.float64)", True),
    Edit(
        "a registry that a decorator fills",
        "relative",
        "def two(x): return x",
        "from lab.p.train import REGISTRY\ndef reg(f): REGISTRY[f.__name__] = f; return f\n@reg\ndef two(x): return x",
        True,
    ),
    Edit("a condition", "train", "value < 0", "value <= 0", True),
    Edit("a log line that computes", "train", '_log.info("start %s", n)', '_log.info("start %s", next(it))', True),
    Edit("a lambda", "train", "x / 2", "x / 3", True),
    Edit("the other way where a library is missing", "train", "def fast(x): return x", "def fast(x): return -x", True),
    Edit("a class that only an annotation names", "handed", "return 1", "return 2", True),
    Edit("what an address in the code names", "addressed", "return x", "return -x", True),
    Edit("a module that is imported by its name", "by_name", "return 1", "return 2", True),
    Edit("names that a module makes up", "made", "return 1", "return 2", True),
    Edit("what an address in the config names", "plugin", "return 1", "return 2", True),
    Edit("a method of a nested section", "config", "return self.depth", "return -self.depth", True),
    Edit("a function that makes a default", "config", "def fresh(): return 1", "def fresh(): return 2", True),
    Edit("a field of a class that is no config", "config", "size: int = 1", "size: int = 2", True),
    Edit("a field of a dataclass", "train", "width: int = 3", "width: int = 4", True),
    Edit("a file that is not Python any more", "star", "return 1", "return 1 +", True),
    Edit("a condition that is asserted", "train", "value > -1", "value > -2", True),
]


def write(folder: Path, edit: Edit | None = None) -> None:
    """The package, with an edit."""
    files = dict(FILES)
    if edit is not None:
        name = f"lab/p/{edit.file}.py"
        text = files.get(name, "")
        assert edit.old in text, edit.what
        files[name] = text.replace(edit.old, edit.new) if edit.old else edit.new
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Named(Config):
    """A config that names a network."""

    model: str = "lab.p.plugin:network"


class Address:
    """A function that is named, as a task names its own."""

    def __init__(self, address: str) -> None:
        self.address = address


def code_in(folder: Path, cache: Path | None = None) -> CodeDigest:
    """The code of the package's task; its config names a network."""
    parts = [Address("lab.p.train:train"), Address("lab.p.config:MyConfig")]
    return code_of(parts, [Named()], cache, Folder([folder, REPOSITORY / "src"]))
