"""`alchemint toyworld`: what it writes, and what it says of wrong options."""

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from alchemint.cli.toyworld import toyworld
from alchemint.record_files import read_records


@pytest.fixture
def invoke():
    app = typer.Typer()
    app.command()(toyworld)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_clips_records_and_a_sheet_are_written(tmp_path, invoke):
    result = invoke("--out", tmp_path, "--num", 3, "--split", "heldout", "--first", 2, "--num-frames", 13)
    assert result.exit_code == 0, result.output
    records = list(read_records(tmp_path))
    assert [record.clip_id for record in records] == ["heldout-000002", "heldout-000003", "heldout-000004"]
    assert all((tmp_path / record.video).is_file() for record in records)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 3 * 144


@pytest.mark.parametrize(("option", "value", "message"), [("--split", "test", 'split "test"'),
                                                          ("--num-frames", 24, "num_frames 24"),
                                                          ("--width", 65, "odd side")])
def test_wrong_options_are_named(tmp_path, invoke, option, value, message):
    result = invoke("--out", tmp_path, "--num", 1, option, value)
    assert result.exit_code == 2
    assert message in result.output
    assert not list(tmp_path.glob("*.parquet"))
