"""What the pages of a scan show: numbers with units and few digits, and no JSON where a table will do."""

from __future__ import annotations

from als_assets.catalog import metadata_table
from als_assets.xpcs import g2_table, numbers

VALUES = {
    "q_per_angstrom": [0.00122124187, 0.00196465], "tau_s": [0.4467312, None], "contrast": [0.2513999, 0.248],
    "chi_squared": [0.8, 1.1],
}  # fmt: skip


def test_the_fits_are_a_table_with_units() -> None:
    rows = [record.data for record in g2_table(VALUES).records]
    assert rows == [
        {"q (1/Å)": "0.001221", "tau (s)": "0.4467", "contrast": "0.2514", "reduced χ²": "0.8"},
        {"q (1/Å)": "0.001965", "tau (s)": "", "contrast": "0.248", "reduced χ²": "1.1"},
    ]
    assert g2_table({}) is None


def test_numbers_to_plot_over_scans_have_their_unit_in_the_name() -> None:
    assert numbers(VALUES) == {
        "tau, median over q (s)": 0.44673, "contrast, median over q": 0.2514, "q bins": 2,
    }  # fmt: skip


def test_the_metadata_of_a_file_are_a_table_with_units() -> None:
    described = {
        "photon_energy": {"value": 778.1000000001, "unit": "eV"}, "sample_name": {"value": "Co/Pt", "unit": None},
        "frames": {"value": 512, "unit": None}, "delay": {"value": float("nan"), "unit": "s"},
    }  # fmt: skip
    assert [record.data for record in metadata_table(described).records] == [
        {"name": "photon_energy", "value": "778.1", "unit": "eV"},
        {"name": "sample_name", "value": "Co/Pt", "unit": ""},
        {"name": "frames", "value": "512", "unit": ""},
        {"name": "not_finite", "value": "delay", "unit": ""},  # as in the catalogue
    ]
    assert metadata_table({}) is None
