"""Tasks made by the decorator, functions named in strings, and the tasks that a lab lists."""

from collections.abc import Generator
from pathlib import Path

import pytest

import labtrail as lt
from labtrail.running.lazy import load
from labtrail.running.registry import experiment_names, known_tasks, task_named
from labtrail.store import lab


class WaveConfig(lt.Config):
    """A wave."""

    epochs: int = 3
    """how long"""


def test_a_decorated_function_is_a_task() -> None:
    @lt.task(score="train/loss", best="lowest")
    def sine_wave(config: WaveConfig, _run: lt.Run) -> Generator[lt.Record]:
        yield lt.Record(config.epochs)

    assert (sine_wave.name, sine_wave.config) == ("sine-wave", WaveConfig)
    assert sine_wave.score == lt.Score("train/loss", "minimize")
    assert sine_wave.default is None
    assert sine_wave.run_name(WaveConfig(seed=3)) == "sine-wave-s3"


def test_a_function_without_a_config_is_refused() -> None:
    with pytest.raises(lt.ConfigError, match="annotate its first parameter"):

        @lt.task()
        def untyped(config, run):
            yield lt.Record(0)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("labtrail.record", "expected package.module:name"),
        ("labtrail.record:", "expected package.module:name"),
        ("labtrail.record:Rekord", "module labtrail.record has no Rekord"),
    ],
)
def test_an_address_that_names_nothing_is_refused(address: str, message: str) -> None:
    with pytest.raises(lt.ConfigError, match=message):
        load(address)


def test_a_lazy_function_is_imported_when_it_is_called() -> None:
    assert lt.lazy("labtrail.record:named")("train", {"loss": 1.0}) == {"train/loss": 1.0}
    assert repr(lt.lazy("nowhere:at_all")) == "lazy('nowhere:at_all')"


TASKS = """
import labtrail as lt

class C(lt.Config):
    pass

@lt.task(experiment="waves")
def {name}(config: C, run):
    yield lt.Record(0)
"""


@pytest.fixture
def waves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab with two modules of tasks, seen from a folder deep inside."""
    (tmp_path / "pyproject.toml").write_text('[tool.labtrail]\ntasks = ["waves_sine", "waves_square"]\n')
    for name in ("sine", "square"):
        (tmp_path / f"waves_{name}.py").write_text(TASKS.format(name=name))
    inner = tmp_path / "a/b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    return tmp_path


def test_the_lab_is_found_from_a_subfolder(waves: Path) -> None:
    assert lab.lab_folder() == waves
    assert lab.state_folder() == waves / ".labtrail"
    assert set(known_tasks()) == {"sine", "square"}
    assert task_named("square").experiment_name == "waves"
    assert experiment_names() == ["waves", "report", "tour"]


def test_an_unknown_task_names_the_nearest(waves: Path) -> None:
    with pytest.raises(lt.ConfigError, match=r"task 'squar' is unknown \(did you mean 'square'\?\)"):
        task_named("squar")
    with pytest.raises(lt.ConfigError, match=r"task 'xyz' is unknown \(valid: sine, square\)"):
        task_named("xyz")


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ('tasks = ["waves_none"]', "no module waves_none in"),
        ('tasks = ["empty"]', "module empty holds no Task"),
        ('tasks = "waves_sine"', "expected a list of module names, found 'waves_sine'"),
        ("tasks = [", "not valid TOML"),
    ],
)
def test_a_bad_list_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, message: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.labtrail]\n{listed}\n")
    (tmp_path / "empty.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    with pytest.raises(lt.ConfigError, match=message) as caught:
        known_tasks()
    assert len(caught.value.problems) == 1


def test_outside_a_lab_there_are_no_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lab.lab_folder() is None
    assert lab.working_folder() == tmp_path
    assert known_tasks() == {}
    with pytest.raises(lt.ConfigError, match=r"no pyproject\.toml from here upwards lists tasks"):
        task_named("sine")
    with pytest.raises(lt.ConfigError, match="no lab here"):
        experiment_names()
