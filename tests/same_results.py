"""Whether two commits give the same results, to the bit: ``python -m tests.same_results OLD NEW [--only WORD]``.

Each commit is checked out in a worktree of its own and runs the same commands in a folder of its own, with the
packages of this environment. Runs are compared in the order of their beginning: keys (where they name no other run),
metric histories but for times and memory, and every tensor of every checkpoint. Then what OLD has begun and lost by
``kill -9`` (a run, a campaign, a study) is continued by NEW, and has to end as without a kill. Of a study that is the
trial that was lost: what is proposed after it depends on when its result was known. How a refactoring is proven here.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file

from projects.distill.config import ALONE
from projects.distill.methods import METHODS
from projects.pamap2.config import Fusion

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = Path(os.environ.get("LABTRAIL_REAL_DATA", ROOT / "../shared/data")).resolve()
_ZIP = REAL_DATA / "pamap2-subset/pamap2+physical+activity+monitoring.zip"
# What is measured again in every run.
_MEASURED = ("system/", "profile/", "step/", "time/")
_QUICK_DIGITS = ["--config", "configs/distill/digits.yaml", "--train.epochs", "2"]

Words = Sequence[str]


class Case(NamedTuple):
    """Commands whose runs are compared."""

    name: str
    commands: Sequence[Words]


def tour() -> Iterator[Words]:
    """Every stop of the tour; what reads another run reads the newest."""
    for stop in yaml.safe_load((ROOT / "configs/tour.yaml").read_text())["stops"]:
        overrides = [word for key, value in stop.get("overrides", {}).items() for word in (f"--{key}", str(value))]
        if stop.get("reads"):
            overrides += ["--run", "latest"]
        module = [f"projects.{stop['project']}", *([stop["word"]] if "word" in stop else [])]
        yield [*module, "--config", stop["config"], *overrides]


def cases() -> Iterator[Case]:
    """All of them; those on real data only where it lies."""
    yield Case("tour", list(tour()))
    yield Case(
        "digits",
        [
            ["projects.distill", *_QUICK_DIGITS, "--model.name", "resnet14"],
            *(
                ["projects.distill", *_QUICK_DIGITS, "--method", method, "--teacher_model", "resnet14"]
                for method in (*METHODS, *ALONE)
                if method != "none"
            ),
            [
                "projects.distill",
                "bundle",
                "--config",
                "configs/distill-bundle/digits.yaml",
                "--train.epochs",
                "2",
                "--teacher_model",
                "resnet14",
            ],
        ],
    )
    pamap2 = ["projects.pamap2", "--config", "configs/pamap2/quick_sweep.yaml", "--train.epochs", "2"]
    yield Case("fusions", [[*pamap2, "--model.fusion", fusion] for fusion in get_args(Fusion)])
    spoter = ["projects.spoter", "--config", "configs/spoter/synthetic.yaml", "--train.epochs", "3"]
    yield Case("two processes", [[*spoter, "--processes", "2", "--train.milestones", "[]"]])
    yield Case("bf16", [[*spoter, "--compute.precision", "bf16", "--train.milestones", "[]"]])
    yield Case("recomputation", [[*spoter, "--remat.memory", "0.7", "--train.milestones", "[]"]])
    if REAL_DATA.is_dir():
        cifar = ["--data.name", "cifar10", "--data.folder", str(REAL_DATA / "cifar"), "--model.name", "resnet8"]
        yield Case("cifar subset", [["projects.distill", *_QUICK_DIGITS, *cifar]])
        clips = ["projects.fetch", "--dataset", "wlasl50", "--from_file", str(REAL_DATA / "wlasl50")]
        signs = ["projects.spoter", "--config", "configs/spoter/wlasl50.yaml", "--train.epochs", "2"]
        yield Case("real clips", [clips, [*signs, "--train.milestones", "[]", "--train.baseline", "false"]])
        prepare = ["projects.pamap2", "prepare", "--source", str(_ZIP), "--output", "data/pamap2/prepared"]
        train = ["projects.pamap2", "--config", "configs/pamap2/contiguous.yaml", "--train.epochs", "1"]
        yield Case("real recordings", [prepare, train])


class Place:
    """A folder in which commands of one commit after another run, with one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def use(self, worktree: Path) -> None:
        """From here on commands are those of this commit."""
        for name in ("src", "projects", "configs", "pyproject.toml", "slurm"):
            link = self.folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(worktree / name)

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "LABTRAIL_"))}
        return kept | {"PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(self, words: Words) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise SystemExit(
                f"{self.folder.name}: python -m {' '.join(words)}: status {done.returncode}\n{done.stderr}"
            )

    def run_and_kill(self, words: Words, wanted: str, minutes: float = 5) -> None:
        """Starts a command, and kills it and all below it once a file below the folder has the text."""
        log = self.folder / "killed.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60 * minutes
        while wanted not in log.read_text() and process.poll() is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(words)}: {wanted!r} never came")
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # Cells of a campaign end with it; their last writes are awaited.
        time.sleep(3)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")

    def runs(self) -> list[Run]:
        """Runs that hold work, the earliest first."""
        client = self.client
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, max_results=1000, order_by=["attributes.start_time ASC"])
        return [run for run in found if "labtrail.same_as" not in run.data.tags and "labtrail.task" in run.data.tags]

    def histories(self, run: Run) -> dict[str, list[tuple[int, float]]]:
        client = self.client
        return {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in sorted(run.data.metrics)
            if not name.startswith(_MEASURED)
        }

    def tensors(self, run: Run) -> dict[str, torch.Tensor]:
        """Every tensor of every checkpoint and weights file, by file and name."""
        folder = Path(str(run.info.artifact_uri).removeprefix("file://")) / "checkpoints"
        found: dict[str, torch.Tensor] = {}
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            if path.suffix == ".safetensors":
                found |= {f"{name}:{key}": tensor for key, tensor in load_file(path).items()}
            elif path.suffix == ".pt":
                found |= dict(_flat(name, torch.load(path, weights_only=True, map_location="cpu")))
        return found


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix}/{key}", inner)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _flat(f"{prefix}/{number}", inner)


def differences(first: tuple[Place, Run], second: tuple[Place, Run]) -> list[str]:
    """What differs between two runs of the same work."""
    (place_a, a), (place_b, b) = first, second
    found = []
    if a.data.tags["labtrail.task"] != b.data.tags["labtrail.task"]:
        return [f"task {a.data.tags['labtrail.task']} beside {b.data.tags['labtrail.task']}"]
    if "labtrail.reads" not in a.data.tags and a.data.tags["labtrail.key"] != b.data.tags["labtrail.key"]:
        found.append(f"key {a.data.tags['labtrail.key']} beside {b.data.tags['labtrail.key']}")
    if a.data.tags.get("labtrail.ended") != b.data.tags.get("labtrail.ended"):
        found.append(f"end {a.data.tags.get('labtrail.ended')} beside {b.data.tags.get('labtrail.ended')}")
    # A profile measures: its times differ from run to run, its bytes do not.
    exact = not a.data.tags["labtrail.task"].startswith("profiler")
    histories = [place.histories(run) for place, run in (first, second)]
    if histories[0].keys() != histories[1].keys():
        found.append(f"metrics {sorted(histories[0].keys() ^ histories[1].keys())} in one only")
    found += [f"metric {name}" for name in histories[0] if exact and histories[0][name] != histories[1].get(name)]
    tensors = [place_a.tensors(a), place_b.tensors(b)]
    if tensors[0].keys() != tensors[1].keys():
        found.append(f"tensors {sorted(tensors[0].keys() ^ tensors[1].keys())[:5]} in one only")
    found += [
        f"tensor {name}"
        for name, tensor in tensors[0].items()
        if name in tensors[1] and not torch.equal(tensor, tensors[1][name])
    ]
    return found


def compare(name: str, old: Place, new: Place) -> int:
    """Prints a line for each pair of runs; the number that differ."""
    pairs = [(old.runs(), new.runs())]
    if len(pairs[0][0]) != len(pairs[0][1]):
        print(f"DIFFERS  {name}: {len(pairs[0][0])} runs beside {len(pairs[0][1])}", flush=True)
        return 1
    bad = 0
    for a, b in zip(*pairs[0], strict=True):
        found = differences((old, a), (new, b))
        bad += bool(found)
        count = len(old.tensors(a))
        words = "; ".join(found[:4]) if found else f"{len(old.histories(a))} metrics, {count} tensors"
        print(f"{'DIFFERS' if found else 'same':8} {name}: {a.info.run_name}: {words}", flush=True)
    return bad


GRID = """
name: continued
task: distill
groups:
  - {name: base, config: configs/distill/digits.yaml, values: {train.epochs: 3, model.name: resnet8},
     grid: {seed: [0, 1, 2]}}
"""
SEARCH = """
name: searched
task: distill
config: configs/distill/digits.yaml
values: {train.epochs: 3, model.name: resnet8}
space: {train.learning_rate: {low: 0.01, high: 0.1, log: true}}
trials: 3
pruner: none
"""
_SIGNS = ["projects.spoter", "--config", "configs/spoter/synthetic.yaml", "--train.epochs", "12"]


def continued(folder: Path, old: Path, new: Path) -> int:
    """What OLD has begun and lost is continued by NEW, and ends as without a kill."""
    bad = 0
    plans = {
        "a killed run": (_SIGNS, "step 4", ""),
        "a killed campaign": (["projects.campaign", "--config", "round.yaml", "--workers", "1"], "", GRID),
        "a killed study": (["projects.study", "--config", "round.yaml"], "", SEARCH),
    }
    for name, (words, wanted, text) in plans.items():
        whole, cut = Place(folder / f"{name} whole"), Place(folder / f"{name} cut")
        for place in (whole, cut):
            (place.folder / "round.yaml").write_text(text)
        whole.use(old)
        whole.run(words)
        cut.use(old)
        if wanted:
            cut.run_and_kill(words, wanted)
        else:
            _kill_in_a_cell(cut, words)
        begun = _works(cut.runs())
        cut.use(new)
        cut.run(words)
        print(f"         {name}: {len(begun)} works begun before the kill, {len(_works(cut.runs()))} after", flush=True)
        bad += _compare_finished(name, whole, cut, begun.keys() if "study" in name else None)
    return bad


def _kill_in_a_cell(place: Place, words: Words) -> None:
    """Kills a campaign or a study while its first run is at work, which ends with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=place.folder,
        env=place.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not _has_logged(place, "distill"):
        if time.monotonic() > deadline or process.poll() is not None:
            raise SystemExit(f"{' '.join(words)} never began a run")
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(5)


def _has_logged(place: Place, task: str) -> bool:
    """Whether a run of a task has metrics; read without MLflow, which would migrate a store that is being made."""
    database = place.folder / "mlflow.db"
    if not database.is_file():
        return False
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            found = connection.execute(
                "SELECT 1 FROM latest_metrics JOIN tags USING (run_uuid) WHERE tags.key = 'labtrail.task' "
                "AND tags.value = ? LIMIT 1",
                [task],
            ).fetchone()
        except sqlite3.OperationalError:
            return False
    return found is not None


def _works(runs: Sequence[Run]) -> dict[str, Run]:
    """By their keys, without the runs that only say what is to be done."""
    by_key = {run.data.tags["labtrail.key"]: run for run in runs}
    return {key: run for key, run in by_key.items() if run.data.tags["labtrail.task"] not in ("campaign", "study")}


def _finished(place: Place) -> dict[str, Run]:
    return _works([run for run in place.runs() if run.data.tags.get("labtrail.ended") == "FINISHED"])


def _compare_finished(name: str, whole: Place, cut: Place, only: Collection[str] | None) -> int:
    """Pairs the finished runs by their keys; ``only`` those, which have to be among them, if given."""
    finished = _finished(whole), _finished(cut)
    works = [set(runs) if only is None else set(runs) & set(only) for runs in finished]
    if works[0] != works[1] or not works[0]:
        print(f"DIFFERS  {name}: {len(works[0])} finished works beside {len(works[1])}, not the same", flush=True)
        return 1
    bad, again = 0, 0
    for key in sorted(works[0]):
        found = differences((whole, finished[0][key]), (cut, finished[1][key]))
        attempts = finished[1][key].data.tags.get("labtrail.attempts", "1")
        again += attempts != "1"
        bad += bool(found)
        words = "; ".join(found[:4]) or f"attempt {attempts}"
        print(f"{'DIFFERS' if found else 'same':8} {name}: {finished[0][key].info.run_name}: {words}", flush=True)
    if not again:
        print(f"DIFFERS  {name}: nothing was continued", flush=True)
    return bad or int(not again)


@contextmanager
def worktree(commit: str, folder: Path) -> Generator[Path]:
    """A commit of this repository, checked out beside it."""
    subprocess.run(["git", "worktree", "add", "--detach", "-q", str(folder), commit], cwd=ROOT, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(folder)], cwd=ROOT, check=True)


def main() -> int:
    """The number of pairs that differ, as exit status 0 or 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--only", default="", help="only cases whose name has this word ('killed' for continuing)")
    asked = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with worktree(asked.old, folder / "old") as old, worktree(asked.new, folder / "new") as new:
            for case in cases():
                if asked.only not in case.name:
                    continue
                places = Place(folder / f"{case.name} old"), Place(folder / f"{case.name} new")
                for place, commit in zip(places, (old, new), strict=True):
                    place.use(commit)
                    for words in case.commands:
                        place.run(words)
                bad += compare(case.name, *places)
                for place in places:
                    shutil.rmtree(place.folder)
            if asked.only in "a killed run, campaign and study":
                bad += continued(folder, old, new)
    print(json.dumps({"old": asked.old, "new": asked.new, "pairs that differ": bad}))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
