"""Recorded machines become files again."""

from __future__ import annotations

from pathlib import Path

from narthex.testing.host_tree import plant


def test_files_bytes_and_links(tmp_path: Path) -> None:
    recorded = tmp_path / "one.tree"
    recorded.write_text(
        "# a machine\n\n== /proc/a\none\ntwo\n== /sys/b (hex)\n00 ff\n== /lib/c.so.1 -> c.so.2\n== /dev/d\n"
    )
    root = plant(recorded, tmp_path / "root")
    assert (root / "proc/a").read_text() == "one\ntwo\n"
    assert (root / "sys/b").read_bytes() == b"\x00\xff"
    assert (root / "lib/c.so.1").readlink() == Path("c.so.2")
    assert (root / "dev/d").read_bytes() == b""


def test_one_that_changes_another(tmp_path: Path) -> None:
    (tmp_path / "one.tree").write_text("== /a/b\nold\n== /a/c\nstays\n== /d/e\ngoes\n")
    (tmp_path / "two.tree").write_text("base one\n-- /d\n== /a/b\nnew\n")
    root = plant(tmp_path / "two.tree", tmp_path / "root")
    assert (root / "a/b").read_text() == "new\n"
    assert (root / "a/c").read_text() == "stays\n"
    assert not (root / "d").exists()
