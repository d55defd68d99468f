"""Runs a task's command and writes which definitions ran while the task's own function was at work.

    python -m tests.unit.provenance.watched OUTPUT MODULE ARGUMENTS

The output is JSON: {"ran": [...], "reached": [...]}, both names ``module.definition`` of code that counts.
"""

import json
import runpy
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from labtrail.running import execute
from labtrail.running.lazy import load
from labtrail.running.provenance.code import CodeDigest, counts
from labtrail.store import lab

ran: set[tuple[str, str]] = set()
watched: list[CodeType] = []
depth = 0
reached: dict[str, str] = {}


def _hook(frame: FrameType, event: str, _argument: Any) -> None:
    global depth
    code = frame.f_code
    if code in watched:
        depth += {"call": 1, "return": -1}.get(event, 0)
    if event == "call" and depth > 0:
        ran.add((code.co_filename, code.co_qualname))


def _names() -> list[str]:
    modules = {getattr(module, "__file__", None): name for name, module in list(sys.modules.items())}
    spec = sys.modules["__main__"].__spec__
    names = set()
    for file, qualified in ran:
        module = modules.get(file, "")
        module = spec.name if module == "__main__" and spec else module
        top = qualified.partition(".")[0]
        ours = Path(file).resolve().is_relative_to(lab.working_folder().resolve()) or module.startswith("labtrail")
        if ours and not top.startswith("<") and module and counts(module):
            names.add(f"{module}.{top}")
    return sorted(names)


def main() -> None:
    output, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    run_records = execute.run_records

    def following(task: Any, session: Any) -> Any:
        address = getattr(task.function, "address", "")
        function = load(address) if address else task.function
        watched.append(function.__code__)
        code: CodeDigest = session.identity.code
        reached.update(code.definitions)
        return run_records(task, session)

    execute.run_records = following  # ty: ignore[invalid-assignment]
    threading.setprofile(_hook)
    sys.setprofile(_hook)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        Path(output).write_text(json.dumps({"ran": _names(), "reached": sorted(reached)}))


if __name__ == "__main__":
    main()
