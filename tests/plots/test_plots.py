"""Figures: what is drawn is what was computed, and the same figure is the same file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib
import msgspec
import numpy as np
import pytest
from matplotlib.mathtext import MathTextParser
from plot_records import IMAGES, a_cell, put, some_counts
from scipy import stats

from uss_bench.errors import DataError, UsageError
from uss_bench.evaluation.scoring import score, score_row
from uss_bench.plots import classes, confusion, cost, curves, numbers, overview, sensitivity, style
from uss_bench.plugins.registry import Registry
from uss_bench.results.collection import Entry, gather, read_entries
from uss_bench.results.record import CheckpointResult
from uss_bench.results.selection import Query, describe, names, of_seed, only, select
from uss_bench.runtime import progress


@pytest.fixture
def two_methods(tmp_path: Path) -> Path:
    """Three seeds of two methods on one table."""
    for seed in range(3):
        put(tmp_path, a_cell("dino", seed=seed), some_counts(seed, hits=0.5), some_counts(seed, hits=0.55))
        put(tmp_path, a_cell("ds2dl", seed=seed), some_counts(seed + 9, hits=0.7))
    return tmp_path


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """Three seeds of three values of r, of which 2 is the best."""
    for r, hits in ((1.0, 0.5), (2.0, 0.9), (4.0, 0.6)):
        for seed in range(3):
            put(tmp_path, a_cell(seed=seed, r=r, tau=0.1), some_counts(seed, hits=hits))
    return tmp_path


def settings_of(folder: Path, **query):
    return select(Query(folders=[folder], **query))


# --- Style ---------------------------------------------------------------------------------------


def a_figure():
    with style.figure("column", height=1.5) as canvas:
        canvas.subplots().plot([1, 2, 3], [2, 1, 3], label="r = 2, µ ± σ")
    return canvas


@pytest.mark.parametrize("suffix", [".pdf", ".png", ".svg"])
def test_a_figure_drawn_twice_is_the_same_file(tmp_path, suffix):
    for name in ("a", "b"):
        style.save(a_figure(), tmp_path / "new" / f"{name}{suffix}")
    first, second = ((tmp_path / "new" / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second
    assert b"CreationDate" not in first
    assert b"<dc:date>" not in first


def test_text_in_a_pdf_is_truetype_and_not_outlines():
    content = style.render(a_figure(), "pdf")
    assert b"/Type /Font" in content
    assert b"/Type3" not in content


def test_the_users_matplotlib_settings_do_not_reach_a_figure():
    before = style.render(a_figure(), "png")
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red"}):
        assert style.render(a_figure(), "png") == before
    assert matplotlib.rcParams["font.size"] == matplotlib.rcParamsDefault["font.size"]


def test_another_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match=r"'\.jpg' file"):
        style.save(a_figure(), tmp_path / "a.jpg")
    assert not any(tmp_path.iterdir())


def test_a_figure_that_cannot_be_written_is_told_without_a_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        style.save(a_figure(), tmp_path / "file" / "a.png")


def test_series_differ_by_marker_where_colors_repeat():
    pairs = [(style.color(index), style.marker(index)) for index in range(20)]
    assert len(set(pairs)) == 20


# --- Selection -----------------------------------------------------------------------------------


def test_methods_come_in_the_order_in_which_they_were_asked_for(two_methods):
    assert names(settings_of(two_methods, methods=["ds2dl", "dino"])) == ["ds2dl", "dino"]
    assert names(settings_of(two_methods, methods=["dino", "ds2dl", "dino"])) == ["dino", "ds2dl"]
    assert names(settings_of(two_methods)) == ["dino", "ds2dl"]


def test_no_records_and_no_fitting_records_are_usage_errors(two_methods, tmp_path):
    with pytest.raises(UsageError, match="no scored records"):
        settings_of(tmp_path / "empty")
    with pytest.raises(UsageError, match="No record has the method 'din'"):
        settings_of(two_methods, methods=["din"])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"dataset": "other"}, r"several datasets \(other, tiny\)"),
        (
            {"protocol": "stego320@2[flip=false]"},
            r"several protocols \(stego320@2, stego320@2\[flip=false\]\)",
        ),
        ({"fingerprint": "f2"}, "several versions of tiny: they differ in fingerprint"),
    ],
)
@pytest.mark.parametrize("figure", [classes, cost, curves])
def test_tables_are_never_mixed_in_a_comparison(tmp_path, other, said, figure):
    put(tmp_path / "a", a_cell(), some_counts(0))
    put(tmp_path / "b", a_cell("dino", **other), some_counts(1))
    arguments = {classes: ("iou", "crf"), cost: ("miou", "crf"), curves: ()}[figure]
    with pytest.raises(UsageError, match=said):
        figure.draw(settings_of(tmp_path), *arguments)


def test_a_setting_on_two_backbones_is_told_apart_by_the_backbone(tmp_path):
    for backbone in ("vit", "resnet"):
        put(tmp_path, a_cell(backbone=backbone), some_counts(0))
    settings = settings_of(tmp_path)
    assert names(settings) == ["ds2dl · resnet", "ds2dl · vit"]
    with pytest.raises(UsageError, match="2 configurations fit") as error:
        only(settings)
    assert "--backbone" in error.value.hint


def test_the_record_of_a_seed_is_chosen_or_missed(two_methods):
    settings = settings_of(two_methods)
    assert [one.record.cell.seed for one in of_seed(settings, None)] == [0, 0]
    assert [one.record.cell.seed for one in of_seed(settings, 2)] == [2, 2]
    with pytest.raises(UsageError, match="no record of seed 7; it has 0, 1, 2"):
        of_seed(settings, 7)


def test_a_caption_says_what_was_measured(two_methods):
    assert describe(settings_of(two_methods)) == f"tiny (test, {IMAGES} images), stego320@2, vit; seeds 0–2"


# --- Numbers -------------------------------------------------------------------------------------


def test_scores_are_those_of_the_counts(two_methods):
    dino, _ = settings_of(two_methods)
    for refinement, hits in (("raw", 0.5), ("crf", 0.55)):
        expected = [100 * score(some_counts(seed, hits=hits)).miou for seed in range(3)]
        np.testing.assert_allclose(numbers.scores(dino, "miou", refinement), expected, atol=1e-4)


def test_a_mean_leaves_out_what_is_not_there():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    np.testing.assert_array_equal(numbers.mean(values), [2.0, 5.0, np.nan])


def test_a_band_is_students_interval_within_the_scale():
    values = np.array([40.0, 44.0, 45.0])
    reach = stats.sem(values) * stats.t.ppf(0.975, 2)
    np.testing.assert_allclose(numbers.band(values), [values.mean() - reach, values.mean() + reach])
    assert numbers.band([1.0, 99.0]) == (0.0, 100.0)
    assert np.isnan(numbers.band([40.0])).all()


# --- Sensitivity ---------------------------------------------------------------------------------


def test_a_sweep_draws_means_bands_seeds_and_the_best(swept):
    (found,) = sensitivity.sweeps(settings_of(swept), "r")
    assert found.values == (1.0, 2.0, 4.0)
    canvas = sensitivity.draw([found], "crf")
    for axes, metric in zip(canvas.axes, ("accuracy", "miou"), strict=True):
        values = np.array([numbers.scores(one, metric, "crf") for one in found.configurations])
        line = next(one for one in axes.lines if one.get_linestyle() == "-")
        np.testing.assert_allclose(line.get_xdata(), [1, 2, 4])
        np.testing.assert_allclose(line.get_ydata(), values.mean(axis=1))
        seeds = [one.get_ydata() for one in axes.lines if one.get_marker() == "_"]
        np.testing.assert_array_equal(seeds, values)
        (band,) = axes.collections
        edges = band.get_paths()[0].vertices
        reach = stats.sem(values, axis=1) * stats.t.ppf(0.975, 2)
        for r, low, high in zip((1, 2, 4), values.mean(1) - reach, values.mean(1) + reach, strict=True):
            np.testing.assert_allclose(np.unique(edges[edges[:, 0] == r][:, 1]), [low, min(high, 100)])
        (text,) = axes.texts
        assert text.get_text() == f"{values.mean(axis=1)[1]:.1f}"
        assert text.xy[0] == 2.0


def test_a_sweep_of_several_datasets_has_a_column_for_each(swept):
    for r in (1.0, 3.0):
        put(swept, a_cell(dataset="other", r=r, tau=0.1), some_counts(0))
    found = sensitivity.sweeps(settings_of(swept, datasets=["tiny", "other"]), "r")
    assert [sweep.configurations[0].table.dataset for sweep in found] == ["tiny", "other"]
    canvas = sensitivity.draw(found, "raw")
    assert [axes.get_title() for axes in canvas.axes] == ["tiny", "other", "", ""]
    assert [tick.get_text() for tick in canvas.axes[3].get_xticklabels()] == ["1", "3"]


def test_values_without_an_order_are_not_joined(tmp_path):
    for value in (True, False):
        for seed in range(2):
            put(tmp_path, a_cell(seed=seed, standardize=value), some_counts(seed, hits=0.5 + 0.2 * value))
    canvas = sensitivity.draw(sensitivity.sweeps(settings_of(tmp_path), "standardize"), "crf")
    assert not any(line.get_linestyle() == "-" for axes in canvas.axes for line in axes.lines)
    assert [tick.get_text() for tick in canvas.axes[1].get_xticklabels()] == ["false", "true"]


def test_one_value_or_a_wrong_parameter_is_a_usage_error(swept):
    with pytest.raises(UsageError, match=r"needs two values of tau.* have 0.1"):
        sensitivity.sweeps(settings_of(swept), "tau")
    with pytest.raises(UsageError, match="no parameter 'R'") as error:
        sensitivity.sweeps(settings_of(swept), "R")
    assert error.value.hint == "Known: r, tau."


def test_a_second_parameter_that_differs_must_be_chosen(swept):
    for r in (1.0, 2.0):
        put(swept, a_cell(r=r, tau=0.5), some_counts(0))
    with pytest.raises(UsageError, match=r"more than r: tau is 0.1 or 0.5") as error:
        sensitivity.sweeps(settings_of(swept), "r")
    assert error.value.hint == "Choose one: --set tau=0.1"
    (found,) = sensitivity.sweeps(select(Query(folders=[swept]), tau=0.5), "r")
    assert found.values == (1.0, 2.0)


def test_a_sweep_does_not_mix_code_or_backbones(tmp_path):
    for difference in ({"code": "other"}, {"backbone": "resnet"}):
        folder = tmp_path / next(iter(difference))
        for r in (1.0, 2.0):
            put(folder, a_cell(r=r), some_counts(0))
            put(folder, a_cell(r=r, **difference), some_counts(1))
        with pytest.raises(UsageError, match="differ in more than r"):
            sensitivity.sweeps(settings_of(folder), "r")


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ((0.3, 0.4, 0.5), "linear"),
        ((0.01, 0.1, 1.0), "log"),
        ((-0.5, 0.0, 0.5), "linear"),
        ((1.0, 1.001, 50.0), "even"),
        (("a", "b"), "even"),
        ((False, True), "even"),
        ((0.0, 0.001, 1.0), "even"),
    ],
)
def test_an_axis_takes_the_scale_on_which_its_labels_fit(values, scale):
    where, chosen = sensitivity.positions(values, width=2.5)
    assert chosen == scale
    np.testing.assert_allclose(where, np.arange(len(values)) if scale == "even" else values)


# --- Classes, confusion, overview, cost, curves --------------------------------------------------


def test_class_bars_are_means_and_lines_reach_over_the_seeds(two_methods):
    settings = settings_of(two_methods)
    (axes,) = classes.draw(settings, "recall", "raw").axes
    for setting, bars, lines in zip(settings, axes.containers, axes.collections, strict=True):
        values = numbers.scores(setting, "recall", "raw")
        np.testing.assert_allclose([bar.get_height() for bar in bars], values.mean(axis=0))
        reached = np.array([segment[:, 1] for segment in lines.get_segments()])
        np.testing.assert_allclose(reached, np.stack([values.min(axis=0), values.max(axis=0)], axis=1))


def test_a_class_without_a_score_gets_a_dash(tmp_path):
    counts = some_counts(0)
    counts[:, :, 2] = counts[:, 2] = 0
    put(tmp_path, a_cell(), counts)
    (axes,) = classes.draw(settings_of(tmp_path), "iou", "crf").axes
    assert axes.containers[0][2].get_height() == 0
    (dash,) = axes.lines
    assert dash.get_xdata() == [2]


def test_confusion_is_in_matched_order_and_averaged_over_seeds(two_methods):
    _, ds2dl = settings_of(two_methods)
    found = confusion.confusion(ds2dl, "raw")
    expected = []
    for seed in range(3):
        counts = some_counts(seed + 9, hits=0.7).sum(axis=0)
        matched = score(counts).class_of_cluster
        ordered = np.empty_like(counts)
        ordered[matched] = counts
        expected.append((100 * ordered / counts.sum(axis=0)).T)
    np.testing.assert_allclose(found.shares, np.mean(expected, axis=0))
    recall = numbers.mean(numbers.scores(ds2dl, "recall", "raw"))
    np.testing.assert_allclose(np.diag(found.shares), recall, atol=1e-4)
    axes = confusion.draw(found).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), found.shares)
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown[1, 1] == f"{found.shares[1, 1]:.0f}"


@pytest.mark.parametrize(("rule", "columns"), [("strict", 4), ("merge", 3), ("drop", 3)])
def test_pixels_of_extra_clusters_go_where_the_protocol_puts_them(tmp_path, rule, columns):
    protocol = f"stego320@2[extra_clusters={rule}]"
    put(tmp_path, a_cell(protocol=protocol), some_counts(0, clusters=5))
    found = confusion.confusion(*settings_of(tmp_path), "raw")
    assert found.shares.shape == (3, columns)
    np.testing.assert_allclose(found.shares.sum(axis=1), 100)
    (recall,) = numbers.scores(*settings_of(tmp_path), "recall", "raw")
    np.testing.assert_allclose(np.diag(found.shares), recall, atol=1e-4)


def test_an_overview_has_a_column_per_table_and_bold_bests(two_methods):
    put(two_methods, a_cell("dino", dataset="other"), some_counts(0))
    found = overview.overview(settings_of(two_methods))
    assert found.rows == ("dino", "ds2dl")
    assert [table.dataset for table in found.columns] == ["other", "tiny"]
    upper = overview.draw(found, "crf").axes[0]
    texts = {text.get_position(): text for text in upper.texts}
    values = [numbers.scores(one, "accuracy", "crf") for one in settings_of(two_methods, datasets=["tiny"])]
    for row, one in enumerate(values):
        shown = texts[1.5, row + 0.5]
        assert shown.get_text() == f"{one.mean():.1f} ± {one.std(ddof=1):.1f}"
        assert shown.get_fontweight() == ("bold" if one.mean() == max(v.mean() for v in values) else "normal")
    assert (0.5, 1.5) not in texts  # ds2dl has no record on the other dataset
    with pytest.raises(UsageError, match="at least two"):
        overview.overview(settings_of(two_methods, datasets=["other"]))


def test_cost_marks_mean_scores_at_median_costs(two_methods):
    settings = settings_of(two_methods)
    left, right = cost.draw(settings, "miou", "crf").axes
    for axes, taken in ((left, 11.0), (right, 2.0)):
        marks = [line for line in axes.lines if line.get_marker() in style.MARKERS]
        for mark, setting in zip(marks, settings, strict=True):
            assert float(mark.get_xdata()[0]) == taken
            assert float(mark.get_ydata()[0]) == pytest.approx(numbers.scores(setting, "miou", "crf").mean())


def test_costs_of_different_machines_are_remarked_on(two_methods, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_quiet", False)
    put(two_methods, a_cell("stego"), some_counts(0), environment={"processor": "another"})
    cost.draw(settings_of(two_methods), "miou", "crf")
    assert "do not compare" in capsys.readouterr().err


def test_curves_draw_what_was_reported(two_methods):
    settings = settings_of(two_methods, methods=["dino"])
    data, smoothness = curves.draw(settings).axes
    assert (data.get_title(), smoothness.get_title()) == ("data", "smoothness")
    assert len(data.lines) == 3
    np.testing.assert_array_equal(data.lines[0].get_xydata(), [(1, 3.0), (50, 1.0)])


def test_a_scalar_that_was_reported_once_is_a_dot(tmp_path):
    reported = {"once": [(1, 0.5)], "twice": [(1, 0.5), (2, 0.4)]}
    put(tmp_path, a_cell("random"), some_counts(0), curves=reported)
    once, twice = (panel.lines[0].get_marker() for panel in curves.draw(settings_of(tmp_path)).axes)
    assert (once, twice) == ("o", "None")


def test_symbols_of_papers_stand_beside_the_names_of_curves(two_methods):
    symbols = {"dino": {"data": "E_{data}"}, "stego": {"smoothness": "x^2"}}
    data, smoothness = curves.draw(settings_of(two_methods, methods=["dino"]), symbols).axes
    assert (data.get_title(), smoothness.get_title()) == ("data  $E_{data}$", "smoothness")


def test_every_symbol_can_be_set_and_is_of_something_that_is_reported():
    registry, parser = Registry(), MathTextParser("path")
    for name in registry.names("methods"):
        spec, plugin = registry.method(name)
        sources = [path.read_text(encoding="utf-8") for path in plugin.folder.glob("*.py")]
        sources += [
            path.read_text(encoding="utf-8")
            for path in (Path(__file__).parents[2] / "uss_bench" / "nn").glob("*.py")
        ]
        for reported, symbol in spec.symbols.items():
            parser.parse(f"${symbol}$")
            written = re.sub("^(loss|auxiliary)_", "", reported)
            assert any(written in source for source in sources), (name, reported)


def test_without_reports_there_are_no_curves(tmp_path):
    put(tmp_path, a_cell("random"), some_counts(0), curves={})
    with pytest.raises(UsageError, match="Nothing was reported while random trained"):
        curves.draw(settings_of(tmp_path))


def test_maps_made_elsewhere_have_no_refined_scores(two_methods):
    entries, _ = read_entries([two_methods])
    last = msgspec.structs.replace(entries[0].record.last, crf=None)
    entry = Entry(entries[0].path, msgspec.structs.replace(entries[0].record, last=last))
    with pytest.raises(DataError, match="no scores with CRF"):
        classes.draw(gather([entry]), "iou", "crf")


@pytest.mark.parametrize("kind", ["classes", "overview", "cost"])
def test_what_has_no_refined_scores_is_left_out_and_named(tmp_path, command, kind):
    for method in ("random", "stego"):
        put(tmp_path, a_cell(method), some_counts(0))
    only_raw = CheckpointResult(step=None, raw=score_row(score(some_counts(1))), crf=None)
    put(tmp_path, a_cell("dino"), some_counts(1), last=only_raw, selected=only_raw)
    said = command("plot", kind, "--records", tmp_path, "--out", tmp_path / "figure.pdf")
    assert said.code == 0, said.err
    assert "Left out, without scores with CRF: dino." in said.err
    raw = command("plot", kind, "--records", tmp_path, "--out", tmp_path / "figure.pdf", "--raw")
    assert raw.code == 0, raw.err
    assert "Left out" not in raw.err


# --- Command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("sensitivity", "--method", "ds2dl", "--param", "r"),
        ("classes", "--metric", "recall", "--raw"),
        ("confusion", "--method", "ds2dl (r=2.0)"),
        ("overview",),
        ("cost", "--metric", "accuracy"),
        ("curves",),
    ],
)
def test_every_figure_of_numbers_is_written_and_captioned(swept, tmp_path, command, arguments):
    out = tmp_path / "figure.pdf"
    said = command("plot", *arguments, "--records", swept, "--out", out, "--quiet")
    assert said.code == 0, said.err
    assert out.read_bytes().startswith(b"%PDF")
    assert said.out.startswith(f"figure  {out}\ncaption ")


def test_a_wrong_suffix_is_told_before_records_are_read(tmp_path, command):
    said = command("plot", "classes", "--records", tmp_path / "nowhere", "--out", tmp_path / "a.gif")
    assert said.code == 2
    assert "'.gif' file" in said.err


def test_the_help_of_plot_imports_neither_torch_nor_matplotlib(command, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("uss_bench.plots")]:
        monkeypatch.delitem(sys.modules, name)
    assert command("plot", "classes", "--help").code == 0
    assert not any(name.startswith("uss_bench.plots") for name in sys.modules)
