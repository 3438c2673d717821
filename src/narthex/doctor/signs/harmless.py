"""Lines that look like a fault and are none, or only where nothing else is wrong."""

from __future__ import annotations

from narthex.doctor.sign import Sign

CPU_QUOTA = Sign(
    r"failed to parse CPU|CPU quota|cpu\.max|automaxprocs|maxprocs: ",
    words=["failed to parse cpu", "cpu quota", "cpu.max", "maxprocs"],
)
DROPPED = Sign(r"dropping integrated GPU|unsupported Radeon iGPU detected")
OVERRIDE = Sign(r"user overrode visible devices\"? ?(?P<what>\S*)")
DISCOVERY = Sign(
    r"failure during (?:llama-server )?GPU discovery|failed to finish discovery before timeout"
    r"|discovery: timed out waiting for server startup"
)
NOISE = Sign(
    r"msg=\"key (?:with type )?not found\" key="
    r"|msg=\"key not found\"",
    words=['not found" key', 'not found\\" key'],
)
FLASH_OFF = Sign(
    r"flash attention enabled but not supported by (?:model|gpu)"
    r"|quantized kv cache requested but flash attention disabled"
)
NOT_BACK = Sign(r"gpu VRAM usage didn't recover within timeout")
COMFY_DEVICE = Sign(
    r"(?:^|\] )Device: (?P<device>(?:cuda|xpu|mps|privateuseone"
    r"|hip)(?::\d+)?) (?P<name>[^:]+)",
    words=["device: "],
)
RETRY = Sign(r"part \d+ (?:attempt \d+ failed|stalled)")
GAVE_UP = Sign(r"(?<!\): )\bmax retries exceeded(?! with url)", words=["max retries exceeded"])
SHIFT = Sign(r"context limit hit - shifting")
NO_MMAP = Sign(r"disabling mmap for llama-server load by default")
FULL_CAPACITY = Sign(r"the full capacity of the model will not be utilized")
UNIFIED = Sign(r"library=(?:metal|Metal)|GB10|Strix Halo|Jetson|Tegra"
    r"|type=iGPU", words=["library=metal", "gb10", "strix", "jetson",
               "tegra", "type=igpu"])  # fmt: skip
TEMPLATE = Sign(r"model is missing tokenizer\.chat_template")
