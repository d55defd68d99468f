"""The task spoter-analysis: from the attention of a finished run to tables, figures, case studies and a page."""

from collections.abc import Generator, Sequence
from typing import Any

import pandas as pd

import labtrail as lt
from projects.spoter.attention import file_name
from projects.spoter.capture import capture
from projects.spoter.config import AnalysisConfig
from projects.spoter.glosses import read_list
from projects.spoter.interpret import charts
from projects.spoter.interpret.cases import case_pages
from projects.spoter.interpret.comparison import compare_language
from projects.spoter.interpret.effects import (
    Effects,
    ablate,
    ablation_rows,
    curve_table,
    deletion_table,
    occlusion_table,
    reading_table,
)
from projects.spoter.interpret.findings import write_findings
from projects.spoter.interpret.heads import HeadValues, head_table, head_values
from projects.spoter.interpret.language import model_source
from projects.spoter.interpret.representations import cka_table, layer_outputs
from projects.spoter.interpret.study import Study, extraction_config, load_study
from projects.spoter.interpret.viewer import write_viewer
from projects.spoter.subject import UNTRAINED, load_subject, study_sources


def sources(config: AnalysisConfig) -> Sequence[lt.DataSource]:
    """The split, the checkpoints, the attention files, and the glosses and the language model if they are named."""
    extraction = extraction_config(config.run)
    data_sources = study_sources(load_subject(extraction.run), extraction.split, config.epochs)
    for epoch in config.epochs:
        data_sources.append(lt.artifact_source(config.run, file_name(epoch), "attention", profile={"epoch": epoch}))
    if config.language.glosses is not None:
        read_list(config.language.glosses)
        path = config.language.glosses
        data_sources.append(lt.DataSource(path.name, "glosses", str(path), lt.sha256_of(path)))
    if config.mbert is not None:
        data_sources.append(model_source(config.mbert))
    return data_sources


def analyse(config: AnalysisConfig, run: lt.Run) -> Generator[lt.Record]:
    """One Record per epoch with the means over heads, then one with all tables, figures and pages."""
    study = load_study(config, run.accelerator.device)
    untrained = _head_values(study, capture(study.model(UNTRAINED), study.inputs, config.max_frames))
    tables = []
    for epoch, file in study.files.items():
        values = _head_values(study, file)
        tables.append(head_table(epoch, file.modules, values, untrained, config.statistics.resamples, config.seed))
        yield lt.Record(epoch, lt.named(study.split.name, _means(tables[-1])))

    effects = [ablate(study, epoch) for epoch in config.intervention.epochs]
    files, heads = _head_files(study, tables, effects)
    outputs = {epoch: layer_outputs(study.model(epoch), study.inputs, config.max_frames) for epoch in config.epochs}
    similarity = cka_table(outputs, config.statistics.permutations, config.seed)
    files |= {"tables/cka.csv": similarity, **charts.similarity_maps(similarity)}
    effect_files, deletion, occlusion = _effect_files(study, effects)
    said, language_files = compare_language(study, heads)
    files |= effect_files | language_files | case_pages(study, effects[-1])
    files["findings.md"] = write_findings(study, heads, similarity, effects, deletion, occlusion, said)
    files["viewer.html"] = write_viewer(study)
    yield lt.Record(effects[-1].epoch, lt.named(study.split.name, _effect_means(effects[-1], deletion)), files)


def _head_values(study: Study, attention: Any) -> HeadValues:
    content = [study.normalised(clip) for clip in range(len(study.split.clips))]
    return head_values(attention, content, study.clips, study.config.seed)


def _means(table: pd.DataFrame) -> dict[str, float]:
    means = table.groupby(["statistic", "stack"])["value"].mean()
    return {f"{statistic}_{stack}": float(value) for (statistic, stack), value in means.items()}


def _head_files(
    study: Study, tables: list[pd.DataFrame], effects: Sequence[Effects]
) -> tuple[dict[str, Any], pd.DataFrame]:
    config = study.config
    rows = [ablation_rows(effect, config.statistics.resamples, config.seed) for effect in effects]
    table = pd.concat([*tables, *rows], ignore_index=True)
    note = "dot: interval of value - null excludes 0"
    files: dict[str, Any] = {
        "tables/head_statistics.parquet": table,
        "figures/heads.png": charts.head_trends(table),
        "figures/ablation.png": charts.head_maps(table, "ablation", "value", f"Without one head ({note})"),
    }
    # A single head has no others to diverge from.
    for statistic in [name for name in ("entropy", "divergence", "distance") if (table["statistic"] == name).any()]:
        title = f"{statistic.capitalize()} of each head ({note})"
        files[f"figures/{statistic}.png"] = charts.head_maps(table, statistic, "value", title)
    return files, table


def _effect_files(study: Study, effects: Sequence[Effects]) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    arguments = (study.config.statistics.resamples, study.config.seed)
    deletion, curves, occlusion = (
        pd.concat([table(effect, *arguments) for effect in effects], ignore_index=True)
        for table in (deletion_table, curve_table, occlusion_table)
    )
    reading = pd.concat([reading_table(effect) for effect in effects], ignore_index=True)
    last = effects[-1].epoch
    files: dict[str, Any] = {
        "tables/deletion.csv": deletion,
        "tables/deletion_curves.csv": curves,
        "tables/occlusion.csv": occlusion,
        "tables/reading.csv": reading,
        "figures/deletion.png": charts.deletion_chart(curves[curves["epoch"] == last]),
        "figures/occlusion.png": charts.occlusion_chart(occlusion[occlusion["epoch"] == last]),
        "figures/reading.png": charts.reading_chart(reading[reading["epoch"] == last]),
    }
    return files, deletion, occlusion


def _effect_means(effects: Effects, deletion: pd.DataFrame) -> dict[str, float]:
    auc_by_method = deletion[deletion["epoch"] == effects.epoch].set_index("method")["auc"]
    areas = {f"deletion_auc_{str(name).replace(' ', '_')}": float(value) for name, value in auc_by_method.items()}
    return {
        **areas,
        "order_change": effects.order_change,
        "integrated_gradients_error": float(effects.attribution.error.max()),
        "calibration_error": effects.calibration,
    }
