"""What has changed under a profile."""

from __future__ import annotations

import msgspec
import pytest

from narthex.host.facts import HostFacts
from narthex.models.inspection import Inspection
from narthex.profiles.drift import changes, engine_for
from narthex.testing.samples import MODEL, engine, host, profile
from narthex.units import GIB


def inspection(identity: str = MODEL.identity, file_bytes: int = MODEL.file_bytes) -> Inspection:
    return Inspection(
        path=MODEL.path,
        files=(MODEL.path,),
        projector=None,
        identity=identity,
        architecture="llama",
        name=MODEL.name,
        layers=32,
        parameters=7_000_000_000,
        file_bytes=file_bytes,
        context_train=8192,
        vocabulary=32000,
        quantization="Q4_K_M",
        quantization_bytes={},
        experts=0,
        experts_used=0,
        embedding_length=4096,
        feed_forward_length=11008,
        expert_feed_forward_length=0,
        heads=32,
        kv_heads=8,
        layer_shapes=(),
        group_bytes={},
        metadata={},
        tensors=(),
    )


def test_in_the_same_world_nothing_has_changed() -> None:
    assert changes(profile(), engine(), host(), inspection()) == ()


def test_another_build_is_named_with_the_old_one() -> None:
    assert changes(profile(), engine("b12000"), host(), inspection()) == (
        "llama-server is b12000 now; it was b11434",
    )


def test_an_engine_that_is_gone_is_said_to_be_gone() -> None:
    assert changes(profile(), None, host(), inspection()) == ("no llama-server is found any more",)


def test_the_same_build_with_another_device_is_a_change() -> None:
    (found,) = changes(profile(), engine(device="another"), host(), inspection())
    assert "devices changed" in found


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (host(driver="590.10", key="2"), ["the GPU driver is 590.10 now; it was 580.65"]),
        (
            host(card="NVIDIA RTX 3060", key="2"),
            ["the card is NVIDIA RTX 3060 now; it was NVIDIA RTX 4000 Ada"],
        ),
        (host(key="2"), ["the machine is another one, or its CPU, RAM or cards changed"]),
    ],
)
def test_another_machine_is_named_by_what_differs(machine: HostFacts, expected: list[str]) -> None:
    assert list(changes(profile(), engine(), machine, inspection())) == expected


def test_a_card_that_is_gone_is_said_to_be_gone() -> None:
    found = changes(profile(), engine(device=None), host(card=None, driver=None, key="2"), inspection())
    assert "the card is none now; it was NVIDIA RTX 4000 Ada" in found
    assert "the GPU driver is none now; it was 580.65" in found


def test_a_file_that_is_gone_or_another_is_said_so() -> None:
    assert changes(profile(), engine(), host(), None) == (
        f"the model file {MODEL.path} is gone or can't be read",
    )
    (found,) = changes(profile(), engine(), host(), inspection("another"))
    assert "is another model now" in found
    (found,) = changes(profile(), engine(), host(), inspection(file_bytes=3 * GIB))
    assert found == "the model file has 3.00 GiB now; it had 4.00 GiB"


def test_of_several_engines_the_profiles_own_is_taken() -> None:
    engines = [engine("b12000"), engine(device=None), engine()]
    assert engine_for(profile(), engines) == engine()
    assert engine_for(profile(), engines[:2]) == engine(device=None)  # the same build
    assert engine_for(profile(), engines[:1]) == engine("b12000")
    assert engine_for(profile(), []) is None
    assert engine_for(msgspec.structs.replace(profile(), engine_kind="ollama"), engines) is None
