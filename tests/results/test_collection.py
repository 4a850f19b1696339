"""Records gathered into settings: what belongs together, what is told apart, and by what name."""

from __future__ import annotations

import itertools

import pytest
from board_records import planted_counts, write_runs

from uss_bench.errors import DataError, UsageError
from uss_bench.results.collection import TableKey, choose, gather, read_entries


def settings_of(folder):
    entries, broken = read_entries([folder])
    assert broken == []
    return gather(entries)


def test_seeds_of_one_setting_are_gathered_in_their_order(tmp_path):
    write_runs(tmp_path, "alpha", seeds=(2, 0, 11))
    (setting,) = settings_of(tmp_path)
    assert setting.seeds == (0, 2, 11)
    assert setting.label == "alpha"
    assert [record.cell.seed for record in setting.records] == [0, 2, 11]


def test_counts_are_those_of_each_seed(tmp_path):
    write_runs(tmp_path, "alpha", 0.6, seeds=(0, 1))
    (setting,) = settings_of(tmp_path)
    for found, seed in zip(setting.counts("crf"), setting.seeds, strict=True):
        assert (found == planted_counts(0.6, 7 * seed)).all()


def test_counts_that_a_record_lacks_are_a_data_error(tmp_path):
    write_runs(tmp_path, "alpha", crf=False, seeds=(0,))
    (setting,) = settings_of(tmp_path)
    assert len(setting.counts("raw")) == 1
    with pytest.raises(DataError, match="has no crf counts of checkpoint 'last'"):
        setting.counts("crf")


CHANGES = {
    "method": {"method": "beta"},
    "code": {"code": "ba9876543210"},
    "params": {"params": {"tau": 0.2}},
    "dataset": {"dataset": "city"},
    "fingerprint": {"fingerprint": "f1"},
    "limit": {"limit": 5},
    "backbone": {"backbone": "resnet"},
    "weights": {"sha256": "bb"},
    "protocol": {"protocol": "stego320@2[flip=false]"},
}


@pytest.mark.parametrize("changed", CHANGES)
def test_whatever_differs_but_the_seed_makes_another_setting(tmp_path, changed):
    given = {"method": "alpha", "params": {"tau": 0.1}, "seeds": (0,)}
    write_runs(tmp_path, **given)
    write_runs(tmp_path, **{**given, **CHANGES[changed]})
    first, second = settings_of(tmp_path)
    assert first.entries != second.entries
    same_table = changed in ("method", "code", "params", "backbone", "weights")
    assert (first.table == second.table) is same_table


def test_a_record_that_lies_in_two_places_counts_once(tmp_path):
    for folder in ("one", "two"):
        write_runs(tmp_path / folder, "alpha", seeds=(0, 1))
    (setting,) = settings_of(tmp_path)
    assert setting.seeds == (0, 1)


def test_unscored_and_failed_runs_are_left_out(tmp_path):
    write_runs(tmp_path, "alpha", seeds=(0,))
    (path,) = write_runs(tmp_path, "beta", seeds=(0,))
    path.rename(path.with_suffix(".failed.json"))
    assert [one.label for one in settings_of(tmp_path)] == ["alpha"]


def test_unreadable_records_are_named_and_the_rest_is_read(tmp_path):
    write_runs(tmp_path, "alpha", seeds=(0,))
    (tmp_path / "notes.json").write_text("{}")
    entries, broken = read_entries([tmp_path])
    assert len(entries) == 1
    (message,) = broken
    assert "notes.json is not a run record" in message


@pytest.mark.parametrize(
    ("params", "labels"),
    [
        ([{"tau": 0.1, "dim": 64}, {"tau": 0.2, "dim": 64}], ["alpha (tau=0.1)", "alpha (tau=0.2)"]),
        ([{"wide": True}, {"wide": False}], ["alpha (wide=false)", "alpha (wide=true)"]),
        ([{"tau": 0.1}, {}], ["alpha", "alpha (tau=0.1)"]),
    ],
)
def test_a_label_names_the_parameters_in_which_neighbors_differ(tmp_path, params, labels):
    for one in params:
        write_runs(tmp_path, "alpha", params=one, seeds=(0,))
    assert [one.label for one in settings_of(tmp_path)] == labels


def test_parameters_that_differ_in_another_table_are_not_named(tmp_path):
    write_runs(tmp_path, "alpha", params={"tau": 0.1}, seeds=(0,))
    write_runs(tmp_path, "alpha", params={"tau": 0.2}, seeds=(0,), dataset="city")
    write_runs(tmp_path, "alpha", params={"tau": 0.3}, seeds=(0,), backbone="resnet")
    assert {one.label for one in settings_of(tmp_path)} == {"alpha"}


@pytest.mark.parametrize("changed", ["code", "weights"])
def test_neighbors_with_the_same_parameters_have_different_labels(tmp_path, changed):
    write_runs(tmp_path, "alpha", seeds=(0,))
    write_runs(tmp_path, "alpha", seeds=(0,), **CHANGES[changed])
    first, second = settings_of(tmp_path)
    assert first.label != second.label


def test_the_order_does_not_depend_on_the_order_of_the_files(tmp_path):
    for method, dataset in itertools.product(("beta", "alpha"), ("town", "city")):
        write_runs(tmp_path, method, dataset=dataset, seeds=(0,))
    entries, _ = read_entries([tmp_path])
    orders = {tuple(one.cell.id for one in gather(order)) for order in itertools.permutations(entries)}
    assert len(orders) == 1
    assert [(one.table.dataset, one.label) for one in gather(entries)] == [
        ("city", "alpha"),
        ("city", "beta"),
        ("town", "alpha"),
        ("town", "beta"),
    ]


def test_a_table_is_all_of_the_cell_that_results_share(tmp_path):
    write_runs(tmp_path, "alpha", seeds=(0,), limit=5)
    (setting,) = settings_of(tmp_path)
    cell = setting.cell
    assert TableKey.of(cell) == TableKey("town", "test", "train", 5, "f0", "stego320@2", cell.protocol_hash)


def test_settings_are_chosen_by_names_hash_label_and_parameters(tmp_path):
    for tau in (0.1, 0.2):
        write_runs(tmp_path, "alpha", params={"tau": tau}, seeds=(0,))
    write_runs(tmp_path, "beta", seeds=(0,), dataset="city", backbone="resnet")
    settings = settings_of(tmp_path)
    beta, small, large = settings
    assert choose(settings) == settings
    assert choose(settings, method="alpha") == [small, large]
    assert choose(settings, method="alpha (tau=0.2)") == [large]
    assert choose(settings, dataset="city") == choose(settings, backbone="resnet") == [beta]
    assert choose(settings, protocol="stego320@2") == settings
    assert choose(settings, protocol=beta.cell.protocol_hash) == settings
    assert choose(settings, params={"tau": 0.1}) == [small]


def test_what_fits_nothing_is_a_usage_error_with_the_nearest_name(tmp_path):
    write_runs(tmp_path, "alpha", params={"tau": 0.1}, seeds=(0,))
    settings = settings_of(tmp_path)
    with pytest.raises(UsageError, match="No record has the method 'alpa'") as caught:
        choose(settings, method="alpa")
    assert "Did you mean 'alpha'?" in str(caught.value)
    assert "beside the rest" not in str(caught.value)
    with pytest.raises(UsageError, match=r"No record has the parameters tau=0\.3"):
        choose(settings, params={"tau": 0.3})
    with pytest.raises(UsageError, match="No record has the dataset 'town'"):
        choose([], dataset="town")


def test_a_name_that_is_known_but_not_beside_the_rest_is_told_apart_from_an_unknown_one(tmp_path):
    write_runs(tmp_path, "alpha", seeds=(0,))
    write_runs(tmp_path, "beta", seeds=(0,), dataset="city")
    settings = settings_of(tmp_path)
    with pytest.raises(UsageError, match="'city' beside the rest that was asked") as caught:
        choose(settings, method="alpha", dataset="city")
    assert "Known: town." in str(caught.value)
    with pytest.raises(UsageError, match=r"No record has the dataset 'cty'\.") as caught:
        choose(settings, method="alpha", dataset="cty")
