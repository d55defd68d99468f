"""The figures of a report; legible with three runs and with three hundred, and without colour."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from labtrail.figures import COLOURS, heat_maps
from labtrail.query.frames import group_names
from labtrail.report.gather import NOT_SET, ReportData
from labtrail.statistics import t_interval
from labtrail.store import contract
from labtrail.store.contract import CONFIG_PREFIX

_MOST_ROWS = 40
_MOST_LINES = 6
_MOST_PANELS = 3
_MOST_CELLS = 30
_LEAST_SWEPT = 3
_MARKERS = "osD^vPX"
_STYLES = ("-", "--", "-.", ":", "-", "--")
_GREY = "0.75"


class Picture:
    """A figure with what has to be said of it.

    Attributes:
        name: of its file.
        title, caption: words; the caption also says what is seen to those who cannot see it.
        figure: the drawing.
        run_ids: the runs behind it.
    """

    def __init__(self, name: str, title: str, caption: str, figure: Figure, run_ids: Sequence[str]) -> None:
        self.name, self.title, self.caption, self.figure = name, title, caption, figure
        self.run_ids = list(dict.fromkeys(run_ids))


def pictures(data: ReportData) -> list[Picture]:
    """All that the runs have something to draw for."""
    made = [ranking(data), over_key(data), curves(data), heat(data), best_and_last(data), cost(data)]
    return [picture for picture in made if picture is not None]


def ranking(data: ReportData) -> Picture:
    """Groups with their intervals and their single runs, the best on top."""
    metric = data.ranking.metric
    names = data.names[:_MOST_ROWS]
    table = data.groups[data.groups["metric"] == metric].set_index("group")
    shown = data.runs[data.runs["group"].isin(names) & data.runs[metric].notna()]
    reach = _reach(shown[metric])
    figure = Figure(figsize=(7.2, 0.28 * len(names) + 1.3), layout="constrained")
    axis = figure.subplots()
    for place, name in enumerate(names):
        if name not in table.index:
            continue
        row = table.loc[name]
        group_values = data.runs.loc[data.runs["group"] == name, metric]
        axis.plot(group_values, np.full(len(group_values), place), "|", color="0.55", markersize=9)
        if np.isfinite([row["low"], row["high"]]).all():
            axis.plot([row["low"], row["high"]], [place, place], color=COLOURS[0], linewidth=2)
            _mark_cut(axis, reach, row["low"], row["high"], place)
        axis.plot(row["mean"], place, "o", color=COLOURS[0], markersize=5)
    _rows(axis, names)
    axis.set_xlim(reach)
    axis.set_xlabel(metric)
    more = f" The best {len(names)} of {len(data.names)} groups." if len(data.names) > len(names) else ""
    best = f"{names[0]} is best with {table['mean'].iloc[0]:.4g}" if len(table) else ""
    caption = (
        f"Dots: means. Bars: t intervals {data.repeats}, with an arrow where they go on. Ticks: single runs. {best} "
        f"({data.ranking.words}).{more}"
    )
    return Picture("ranking", f"{metric} by group", caption, figure, shown["run_id"])


def _rows(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=8)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(alpha=0.3, axis="x")


def _mark_cut(axis: Axes, reach: tuple[float, float] | None, low: float, high: float, place: int) -> None:
    """Arrows where an interval goes on outside the axis."""
    if reach is not None and low < reach[0]:
        axis.plot(reach[0], place, "<", color=COLOURS[0], markersize=7, clip_on=False)
    if reach is not None and high > reach[1]:
        axis.plot(reach[1], place, ">", color=COLOURS[0], markersize=7, clip_on=False)


def _reach(values: pd.Series) -> tuple[float, float] | None:
    """Ends of an axis by the single runs: a wild interval of two of them must not squeeze everything else."""
    known = values[np.isfinite(values)]
    if known.nunique() < 2:
        return None
    margin = 0.25 * float(np.ptp(known))
    return float(known.min()) - margin, float(known.max()) + margin


def _short(name: str, longest: int = 60) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def over_key(data: ReportData) -> Picture | None:
    """The ranking metric over the one number that was varied, a line for each combination of the rest."""
    numbers = {key: _numbers(data.runs[f"{CONFIG_PREFIX}{key}"]) for key in data.keys}
    swept = {key: values for key, values in numbers.items() if values is not None and values.nunique() >= _LEAST_SWEPT}
    if not swept:
        return None
    key = max(swept, key=lambda name: swept[name].nunique())
    others = [f"{CONFIG_PREFIX}{other}" for other in data.keys if other != key]
    others += [contract.TASK] if data.runs[contract.TASK].nunique() > 1 else []
    rest = group_names(data.runs.fillna(dict.fromkeys(others, NOT_SET)), others).replace("", "all")
    frame = pd.DataFrame({"x": swept[key], "y": data.runs[data.ranking.metric], "line": rest}).dropna()
    counts = frame.groupby("line")["x"].nunique()
    lines = [name for name in counts.index if counts[name] > 1]
    if not lines:
        return None
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axis = figure.subplots()
    order = sorted(lines, key=lambda name: frame.loc[frame["line"] == name, "y"].mean(), reverse=data.ranking.larger)
    for place, name in enumerate(order):
        _line(axis, frame[frame["line"] == name], place, name)
    axis.set(xlabel=key, ylabel=data.ranking.metric)
    axis.set_ylim(_reach(frame.loc[frame["line"].isin(lines), "y"]))
    axis.grid(alpha=0.3)
    if len(lines) > 1:
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
    caption = f"Means {data.repeats} with t intervals, cut off at the ends of the axis; {len(lines)} lines over {key}."
    if len(lines) > _MOST_LINES:
        caption += f" The best {_MOST_LINES} in colour, the others grey."
    return Picture(
        "swept",
        f"{data.ranking.metric} over {key}",
        caption,
        figure,
        data.runs.loc[frame.index[frame["line"].isin(lines)], "run_id"],
    )


def _line(axis: Axes, group: pd.DataFrame, place: int, name: str) -> None:
    groups = [(x, t_interval(part["y"].to_numpy(float))) for x, part in group.groupby("x")]
    x = np.array([key for key, _ in groups], dtype=float)
    value = np.array([float(estimate.value) for _, estimate in groups])
    reach = np.nan_to_num([float(estimate.high - estimate.value) for _, estimate in groups])
    if place >= _MOST_LINES:
        axis.plot(x, value, color=_GREY, linewidth=0.8, zorder=1)
        return
    axis.errorbar(
        x,
        value,
        reach,
        label=_short(name, 40),
        color=COLOURS[place],
        linestyle=_STYLES[place],
        marker=_MARKERS[place],
        markersize=5,
        capsize=2,
        linewidth=1.2,
    )


def _numbers(values: pd.Series) -> pd.Series | None:
    """The values of a swept quantity; None if one of them is not a number, or they are switches."""
    numbers = pd.to_numeric(values, errors="coerce")
    return None if (numbers.isna() & values.notna()).any() else numbers


def curves(data: ReportData) -> Picture | None:
    """Means over repeats by epoch with the range of single runs, the best groups in colour."""
    metrics = list(dict.fromkeys(data.curves["metric"]))[:_MOST_PANELS]
    if not metrics:
        return None
    figure = Figure(figsize=(4.0 * len(metrics) + 0.4, 3.8), layout="constrained")
    for axis, metric in zip(np.atleast_1d(figure.subplots(1, len(metrics))), metrics, strict=True):
        metric_curves = data.curves[data.curves["metric"] == metric]
        for place, name in reversed(list(enumerate(data.names))):
            _curve(axis, metric_curves[metric_curves["group"] == name], place, name)
        axis.set(xlabel="epoch", ylabel=metric)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    caption = f"Means {data.repeats}, as far as all runs of a group go; shaded: from the lowest to the highest run."
    if len(data.names) > _MOST_LINES:
        caption += f" The best {_MOST_LINES} groups in colour, {len(data.names) - _MOST_LINES} others grey."
    shown = data.curves[data.curves["metric"].isin(metrics)]
    return Picture("curves", "Learning curves by group", caption, figure, shown["run_id"])


def _curve(axis: Axes, group: pd.DataFrame, place: int, name: str) -> None:
    if not len(group):
        return
    over = group.groupby("step")["value"].agg(["mean", "min", "max", "count"])
    # Where some have stopped, a mean would be that of whoever is left.
    over = over[over["count"] == over["count"].max()]
    if place >= _MOST_LINES:
        axis.plot(over.index, over["mean"], color=_GREY, linewidth=0.6, zorder=1)
        return
    axis.plot(
        over.index, over["mean"], label=_short(name, 40), color=COLOURS[place], linestyle=_STYLES[place], linewidth=1.3
    )
    axis.fill_between(over.index, over["min"], over["max"], color=COLOURS[place], alpha=0.15, linewidth=0)


def heat(data: ReportData) -> Picture | None:
    """The ranking metric by the two keys with the most values, mean over everything else."""
    sizes = {key: data.runs[f"{CONFIG_PREFIX}{key}"].nunique() for key in data.keys}
    pair = sorted((key for key in sizes if sizes[key] <= _MOST_CELLS), key=lambda key: -sizes[key])[:2]
    if len(pair) < 2:
        return None
    columns, rows = sorted(pair, key=lambda key: _numbers(data.runs[f"{CONFIG_PREFIX}{key}"]) is None)
    table = data.runs.pivot_table(
        index=f"{CONFIG_PREFIX}{rows}", columns=f"{CONFIG_PREFIX}{columns}", values=data.ranking.metric, aggfunc="mean"
    )
    # A sweep along one line is not a table.
    if table.notna().sum().sum() <= max(table.shape):
        return None
    table = table.loc[_sorted(table.index), _sorted(table.columns)]
    figure = heat_maps(
        {"": table.to_numpy(float)},
        [str(label) for label in table.index],
        [str(label) for label in table.columns],
        data.ranking.metric,
        f"{rows} (rows) by {columns} (columns)",
        digits=3,
        width=max(4.2, 0.5 * table.shape[1]),
    )
    caption = f"Means over repeats and all other settings ({data.ranking.words}); blank: no run."
    columns_used = [data.ranking.metric, *(f"{CONFIG_PREFIX}{key}" for key in (rows, columns))]
    shown = data.runs[data.runs[columns_used].notna().all(axis=1)]
    return Picture("heat", f"{data.ranking.metric} by {rows} and {columns}", caption, figure, shown["run_id"])


def _sorted(values: pd.Index) -> list[str]:
    numbers = _numbers(pd.Series(values))
    return list(values) if numbers is None else [values[place] for place in np.argsort(numbers.to_numpy())]


def best_and_last(data: ReportData) -> Picture | None:
    """For each run, the score at its best and at its last epoch."""
    table = best_last_table(data)
    if table.empty:
        return None
    score = data.score
    assert score is not None
    figure = Figure(figsize=(4.8, 4.4), layout="constrained")
    axis = figure.subplots()
    ends = [table[["best", "last"]].min().min(), table[["best", "last"]].max().max()]
    axis.plot(ends, ends, color="0.6", linewidth=1)
    for place, name in reversed(list(enumerate(data.names))):
        group = table[table["group"] == name]
        colour, marker = (COLOURS[place], _MARKERS[place]) if place < _MOST_LINES else (_GREY, ".")
        axis.plot(group["last"], group["best"], linestyle="", markersize=5, color=colour, marker=marker)
    axis.set(xlabel=f"{score.metric}, last epoch", ylabel="best epoch")
    axis.grid(alpha=0.3)
    lost = (table["best"] - table["last"]).abs()
    caption = (
        "A point per run, the best groups in the colours of the curves; on the line the last epoch is the best. Median "
        f"loss from best to last {lost.median():.3g}, at most {lost.max():.3g}."
    )
    return Picture("best_and_last", "Best and last epoch", caption, figure, table["run_id"])


def best_last_table(data: ReportData) -> pd.DataFrame:
    """A row per run with curves of the score: run_id, group, best, best_epoch, last."""
    if data.score is None:
        return pd.DataFrame(columns=["run_id", "group", "best", "best_epoch", "last"])
    scored = data.curves[data.curves["metric"] == data.score.metric]
    rows = []
    for run_id, points in scored[np.isfinite(scored["value"])].groupby("run_id", sort=False):
        place = points["value"].idxmax() if data.score.larger else points["value"].idxmin()
        best = points.loc[place]
        last = points.loc[points["step"].idxmax(), "value"]
        rows.append((run_id, best["group"], best["value"], int(best["step"]), last))
    return pd.DataFrame(rows, columns=["run_id", "group", "best", "best_epoch", "last"])


def cost(data: ReportData) -> Picture | None:
    """How long the runs of each group took."""
    minutes = wall_minutes(data.runs)
    if not minutes.notna().any():
        return None
    names = data.names[:_MOST_ROWS]
    figure = Figure(figsize=(7.2, 0.28 * len(names) + 1.3), layout="constrained")
    axis = figure.subplots()
    for place, name in enumerate(names):
        group_minutes = minutes[data.runs["group"] == name].dropna()
        axis.plot(group_minutes, np.full(len(group_minutes), place), "|", color="0.45", markersize=9)
        if len(group_minutes):
            axis.barh(place, group_minutes.mean(), color=COLOURS[5], height=0.6, zorder=0)
    _rows(axis, names)
    axis.set_xlabel("minutes from start to end")
    axis.set_xlim(0)
    caption = (
        f"Bars: means; ticks: single runs. All finished runs together {minutes.sum() / 60:.3g} hours"
        f"{_asked(data.runs, minutes)}; a run that was interrupted counts from its first start."
    )
    shown = data.runs[data.runs["group"].isin(names) & minutes.notna()]
    return Picture("cost", "Wall time by group", caption, figure, shown["run_id"])


def _asked(runs: pd.DataFrame, minutes: pd.Series) -> str:
    """Hours of processors that a scheduler gave; empty where none did."""
    descriptions = []
    for tag, word in ((contract.CPUS, "CPU"), (contract.GPUS, "GPU")):
        if tag in runs and (hours := float((pd.to_numeric(runs[tag], errors="coerce") * minutes).sum() / 60)) > 0:
            descriptions.append(f"{hours:.3g} {word} hours")
    return f" ({', '.join(descriptions)} on a scheduler)" if descriptions else ""


def wall_minutes(runs: pd.DataFrame) -> pd.Series:
    """Minutes from a run's first start to its end."""
    spent = pd.to_datetime(runs["ended"], utc=True) - pd.to_datetime(runs["started"], utc=True)
    return spent.dt.total_seconds() / 60


def files_of(made: Sequence[Picture]) -> Mapping[str, Figure]:
    """Name of an artifact -> figure."""
    return {f"figures/{text.name}.png": text.figure for text in made}
