"""What the config system takes: run in any folder with labtrail importable."""
import enum, os, tempfile
from pathlib import Path
from typing import Literal, Annotated
from pydantic import Field
from labtrail.config import *
from labtrail.config import load_config, to_yaml, describe, flatten, fingerprint
from labtrail.errors import ConfigError

class Kind(enum.Enum):
    A = "a"; B = "b"

class Adam(Section):
    name: Literal["adam"] = "adam"
    """kind"""
    beta: float = 0.9
    """beta"""
class Sgd(Section):
    name: Literal["sgd"] = "sgd"
    """kind"""
    momentum: float = 0.0
    """momentum"""
class Layer(Section):
    width: int = 8
    """width"""
    act: str = "relu"
    """act"""
class Ema(Section):
    decay: float = 0.99
    """decay"""
class C(Config):
    layers: tuple[Layer, ...] = (Layer(), Layer(width=16))
    """layers"""
    kind: Kind = Kind.A
    """enum"""
    opt: Annotated[Adam | Sgd, Field(discriminator="name")] = Adam()
    """optimizer union"""
    ema: Ema | None = None
    """optional section"""
    extra: dict[str, float] = Field(default_factory=dict)
    """dict"""
    grid: tuple[tuple[int, ...], ...] = ()
    """nested list"""
    folder: Path = Path("x")
    """path"""
    betas: tuple[float, float] = (0.9, 0.98)
    """pair"""
    names: Words = ()
    """words"""
    rate: float = 1e-3
    """rate"""

d = Path(tempfile.mkdtemp())
def t(title, text, *over):
    p = d / "c.yaml"; p.write_text(text)
    try:
        c = load_config(C, p, over)
        f = {k: v for k, v in flatten(c).items() if not k.startswith("compute")}
        print("OK  ", title, "->", {k: v for k, v in f.items() if k in {o[0].split('.')[0] for o in over} | {o[0] for o in over} or any(k.startswith(o[0].split('.')[0] + '.') for o in over)} or f)
        back = p.with_name("b.yaml"); back.write_text(to_yaml(c))
        assert fingerprint(load_config(C, back)) == fingerprint(c), "round trip differs"
    except ConfigError as e:
        print("ERR ", title, "->", "; ".join(e.problems))
    except Exception as e:
        print("TRACEBACK", title, "->", type(e).__name__, str(e)[:200])

t("defaults", "")
t("nested list item by index --layers.0.width 4", "", ("layers.0.width", "4"))
t("nested list item by index, file has list", "layers: [{width: 3}, {width: 5}]", ("layers.0.width", "4"))
t("whole list --layers '[{width: 4}]'", "", ("layers", "[{width: 4}]"))
t("enum", "", ("kind", "b"))
t("enum wrong", "", ("kind", "c"))
t("union switch --opt.name sgd", "", ("opt.name", "sgd"))
t("union switch with file of adam", "opt: {name: adam, beta: 0.5}", ("opt.name", "sgd"))
t("union typo", "", ("opt.name", "adam"), ("opt.betta", "0.5"))
t("optional section on: --ema.decay 0.5", "", ("ema.decay", "0.5"))
t("optional section on, file says null", "ema: null", ("ema.decay", "0.5"))
t("optional section off --ema null", "ema: {decay: 0.5}", ("ema", "null"))
t("optional section with defaults --ema {}", "", ("ema", "{}"))
t("optional section typo", "", ("ema.deacy", "0.5"))
t("dict add --extra.a 1", "extra: {b: 2}", ("extra.a", "1"))
t("dict delete?", "extra: {b: 2}", ("extra.b", "null"))
t("list append?", "layers: [{width: 3}]", ("layers+", "[{width: 4}]"))
t("sweep seed=0,1,2", "", ("seed", "0,1,2"))
t("interpolation", "rate: ${oc.env:RATE}")
t("interpolation of key", "rate: ${seed}")
t("env variable", "folder: $HOME/data")
t("tilde", "folder: ~/data")
t("anchor/merge", "a: &a {width: 3}\nlayers: [*a, *a]")
t("yaml merge key", "layers: [{width: 3, <<: {act: gelu}}]")
t("include", "defaults: [base]\nseed: 1")
t("1e-3 in the file (YAML 1.1 string)", "rate: 1e-3")
t("betas on the command line 0.9,0.95", "", ("betas", "0.9,0.95"))
t("betas [0.9,0.95]", "", ("betas", "[0.9,0.95]"))
t("nested list", "", ("grid", "[[1,2],[3]]"))
t("text that looks like date", "", ("names", "2024-01-02"))
t("same option twice", "", ("seed", "1"), ("seed", "2"))
t("override of a value as section", "", ("seed.x", "1"))
t("NaN rate", "rate: .nan")
t("octal 010 seed", "", ("seed", "010"))
t("sexagesimal 1:30", "", ("names", "1:30"))
t("underscore 1_000", "", ("seed", "1_000"))
t("bool for int", "", ("seed", "true"))
t("float for int", "", ("seed", "1.0"))
print([k for k, *_ in describe(C)])
for k, dflt, text in describe(C):
    if k.split(".")[0] in ("layers", "kind", "opt", "ema", "folder"): print("HELP", k, dflt, text)
print("schema ok", len(str(C.model_json_schema())))
print(to_yaml(C()))
