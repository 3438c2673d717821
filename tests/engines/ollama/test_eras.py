"""Versions, eras, and what each of them can do."""

from __future__ import annotations

import pytest

from narthex.engines.ollama.eras import (
    ERAS,
    FEATURES,
    NEWEST,
    Version,
    automatic_batch,
    default_ctx,
    default_parallel,
    era_of,
    has,
    parse_version,
    since,
)
from narthex.units import GIB


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.33.0-rc2", Version(0, 33, 0)),
        ("v0.5.1", Version(0, 5, 1)),
        ("0.5.1-3-gabc1234", Version(0, 5, 1)),
        ("ollama version is 0.12.11", Version(0, 12, 11)),
        ("0.1.32", Version(0, 1, 32)),
        ("1.2", Version(1, 2, 0)),
        ("0.0.0", NEWEST),
        ("", NEWEST),
        ("dev", NEWEST),
    ],
)
def test_versions_are_read_leniently(text: str, version: Version) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("version", "letter"),
    [
        ("0.1.17", "A"),
        ("0.1.31", "A"),
        ("0.1.32", "B"),
        ("0.3.14", "B"),
        ("0.4.0-rc8", "C"),
        ("0.5.7", "C"),
        ("0.5.8-rc1", "D"),
        ("0.11.4", "D"),
        ("0.11.5", "E"),
        ("0.24.0", "E"),
        ("0.30.0-rc0", "F"),
        ("0.33.0-rc2", "F"),
        ("0.0.0", "F"),
    ],
)
def test_each_version_has_its_era(version: str, letter: str) -> None:
    assert era_of(version).letter == letter


def test_what_size_means_follows_the_era() -> None:
    assert [era.size_means for era in ERAS] == ["estimate"] * 4 + ["layout", "log"]
    assert [era.since for era in ERAS] == sorted(era.since for era in ERAS)


@pytest.mark.parametrize("feature", sorted(FEATURES))
def test_a_feature_begins_with_its_first_version(feature: str) -> None:
    first = FEATURES[feature].since
    assert has(since(feature), feature)
    assert has(since(feature) + "-rc1", feature)
    assert not has(f"{first.major}.{first.minor}.{first.patch - 1}" if first.patch else "0.1.1", feature)
    assert has("0.0.0", feature) == (FEATURES[feature].until is None)


def test_overhead_reserves_no_memory_in_the_newest_era() -> None:
    assert has("0.24.0", "gpu_overhead")
    assert not has("0.30.0", "gpu_overhead")


@pytest.mark.parametrize(
    ("version", "total_ctx", "batch"),
    [
        ("0.33.0-rc2", 4096, 512),
        ("0.33.0-rc2", 4097, 1024),
        ("0.33.0-rc2", 32768, 1024),
        ("0.33.0-rc2", 32769, 2048),
        ("0.24.0", 131072, 512),
        ("0.1.32", 2048, 512),
    ],
)
def test_the_automatic_batch(version: str, total_ctx: int, batch: int) -> None:
    assert automatic_batch(version, total_ctx) == batch


@pytest.mark.parametrize(
    ("version", "vram", "ctx"),
    [
        ("0.6.6", 80 * GIB, 2048),
        ("0.6.7", 80 * GIB, 4096),
        ("0.15.4", None, 4096),
        ("0.15.5", None, 4096),
        ("0.33.0-rc2", 23 * GIB - 1, 4096),
        ("0.33.0-rc2", 23 * GIB, 32768),
        ("0.33.0-rc2", 47 * GIB, 262144),
    ],
)
def test_the_default_context(version: str, vram: int | None, ctx: int) -> None:
    assert default_ctx(version, vram) == ctx


@pytest.mark.parametrize(
    ("version", "slots"),
    [("0.1.48", 1), ("0.2.0", 4), ("0.6.6", 4), ("0.6.7", 2), ("0.9.6", 2), ("0.10.0", 1), ("0.0.0", 1)],
)
def test_the_default_number_of_slots(version: str, slots: int) -> None:
    assert default_parallel(version) == slots
