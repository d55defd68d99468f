"""The task profiler-compare: finished profiles side by side, by model and batch size."""

from collections.abc import Generator, Sequence

import pandas as pd
from matplotlib.figure import Figure

import labtrail as lt
from labtrail.figures import COLOURS
from projects.profiler import charts
from projects.profiler.config import CompareConfig
from projects.profiler.measure import by_part
from projects.profiler.tables import duration, size

_TABLE = "tables/batch_sizes.csv"
_NODES = "node_stats.csv"


def resolve(config: CompareConfig) -> CompareConfig:
    """The config with the runs' ids written out; of repeated work only the newest.

    Raises:
        QueryError: there is none.
    """
    runs = lt.newest_of_each(lt.Query("profiler").only(lt.find_runs(config.runs, "profiler")).runs())
    return config.model_copy(update={"runs": ",".join(runs["run_id"])})


def sources(config: CompareConfig) -> Sequence[lt.DataSource]:
    """The table and the nodes of every run."""
    return [lt.artifact_source(word, name, "profile") for word in config.runs.split(",") for name in (_TABLE, _NODES)]


def compare(config: CompareConfig, _run: lt.Run) -> Generator[lt.Record]:
    """One Record with all tables, figures and words."""
    table = collect(config.runs.split(","))
    operators = operator_times(config.runs.split(","))
    shown = by_part(table).assign(label=table["label"])
    yield lt.Record(
        0,
        {"compare/runs": float(table["run_id"].nunique()), "compare/steps": float(len(table))},
        {
            "tables/steps.csv": table,
            "tables/operators.csv": operators,
            "figures/memory.png": charts.memory_by_batch(shown, None, "Memory of a step"),
            "figures/time_and_memory.png": time_and_memory(table),
            "comparison.md": words(table, operators),
        },
    )


def collect(run_ids: Sequence[str]) -> pd.DataFrame:
    """One row per run and batch size: the run's metrics, and a label of what the runs differ in."""
    runs = lt.Query("profiler").only(run_ids).runs()
    keys = lt.varying(runs, apart=("cfg.batch_sizes", "cfg.iterations", "cfg.warmup", "cfg.model"))
    names = runs["cfg.model"] + [f" ({name})" if name else "" for name in lt.group_names(runs, keys)]
    rows = []
    for (_, run), name in zip(runs.iterrows(), names, strict=True):
        for row in pd.read_csv(lt.artifact(run["run_id"], _TABLE)).to_dict("records"):
            label = f"{name} b{row['batch_size']}"
            rows.append({"run_id": run["run_id"], "model": run["cfg.model"], "name": name, "label": label, **row})
    return pd.DataFrame(rows).sort_values(["name", "batch_size"], kind="stable")


def operator_times(run_ids: Sequence[str]) -> pd.DataFrame:
    """Seconds, calls and workspace of each operator in each run's largest batch, slowest first."""
    models = lt.Query("profiler").only(run_ids).runs().set_index("run_id")["cfg.model"]
    tables = []
    for run_id in run_ids:
        nodes = pd.read_csv(lt.artifact(run_id, _NODES))
        called = nodes[nodes["op"] != "placeholder"]
        totals = called.groupby(["op", "phase"], as_index=False).agg(
            run_time_s=("run_time_s", "sum"), calls=("id", "size"), largest_workspace_bytes=("workspace_bytes", "max")
        )
        share = totals["run_time_s"] / totals["run_time_s"].sum()
        tables.append(totals.assign(run_id=run_id, model=models[run_id], share=share))
    return pd.concat(tables, ignore_index=True).sort_values(["run_id", "run_time_s"], ascending=[True, False])


def time_and_memory(table: pd.DataFrame) -> Figure:
    """Seconds per sample over peak memory, a line for each run, a point for each batch size."""
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axis = figure.subplots()
    for index, ((name, _), group) in enumerate(lt.grouped(table, ["name", "run_id"])):
        x, y = group["peak_bytes_measured"] / charts.MIB, group["step_time_s"] / group["batch_size"] * 1e3
        axis.plot(x, y, "o-", color=COLOURS[index % len(COLOURS)], label=name, markersize=5)
        for place, batch in zip(zip(x, y, strict=True), group["batch_size"], strict=True):
            axis.annotate(str(batch), place, (4, 4), textcoords="offset points", fontsize=8)
    axis.set(
        xlabel="measured peak memory (MiB)",
        ylabel="time of a step per sample (ms)",
        xscale="log",
        yscale="log",
        title="Time and memory; numbers are batch sizes",
    )
    axis.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def words(table: pd.DataFrame, operators: pd.DataFrame) -> str:
    """The table for people, and what takes most time in each run."""
    lines = ["# Profiles side by side", "", "Random weights and made-up data.", ""]
    lines += [
        "| step | predicted peak | measured | error | step time | activations | run |",
        "|---|---|---|---|---|---|---|",
    ]
    for _, row in table.iterrows():
        lines.append(
            f"| {row['label']} | {size(row['peak_bytes_predicted'])} | {size(row['peak_bytes_measured'])} | "
            f"{row['prediction_error']:+.2%} | {duration(row['step_time_s'])} | {size(row['activation_bytes'])} | "
            f"`{row['run_id']}` |"
        )
    lines.append("")
    for (_run_id, model), group in lt.grouped(operators, ["run_id", "model"]):
        top = ", ".join(f"{row['op']} ({row['phase']}) {row['share']:.0%}" for _, row in group.head(3).iterrows())
        lines.append(f"- {model}: most time in {top}.")
    return "\n".join(lines) + "\n"
