"""A small storm at the gateway, as ``bench/gateway_storm.py`` makes a large one: every promise is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "gateway_storm.py"
ASKED = 250


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_request_ends_in_an_answer_or_a_cause_and_nothing_is_left(tmp_path: Path) -> None:
    told = tmp_path / "storm.json"
    words = [sys.executable, str(BENCH), "--requests", str(ASKED), "--clients", "24", "--json", str(told)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert told.exists(), ran.stderr[-3000:]
    found: dict[str, Any] = json.loads(told.read_text())
    assert found["broken"] == {}, json.dumps(found, indent=1)
    assert ran.returncode == 0
    assert found["requests"] >= ASKED
    assert found["ends"]["answered"] > 0
    assert found["chaos"], "nothing went wrong, so nothing was proved"
    assert found["left"] == []
