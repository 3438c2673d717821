"""No test can touch what belongs to the user: the fixtures that promise it work."""

from __future__ import annotations

from pathlib import Path

from narthex import paths


def test_every_folder_of_narthex_is_inside_the_tests_own(tmp_path: Path) -> None:
    for folder in (paths.data_dir(), paths.cache_dir(), paths.state_dir(), Path.home()):
        assert folder.is_relative_to(tmp_path)
