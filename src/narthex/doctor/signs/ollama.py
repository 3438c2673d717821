"""Lines of Ollama itself, of all eras, that tell its story: starts, loads, requests."""

from __future__ import annotations

from narthex.doctor.sign import Sign

# A busy server loads thousands of times in a long log; of each load there are several lines.
_FIRST, _LAST = 200, 1200

# -- starts
CONFIG = Sign(r'msg="server config" env="?(?P<env>.*)', words=["server config"])
LISTENING = Sign(r"Listening on (?P<address>\S+):(?P<port>\d+) \(version (?P<version>[^)\s]+)\)")
COMPUTE = Sign(r'(?:msg="|^)inference compute"? (?P<rest>(?:id|library)=.*)')
NO_GPU_FOUND = Sign(
    r"no compatible GPUs were discovered|no GPU detected|no nvidia devices detected by library"
)
DEFAULT_CONTEXT = Sign(
    r'msg="vram-based default context" total_vram="(?P<vram>[^"]*)" default_num_ctx=(?P<ctx>\d+)'
)
LOW_VRAM_MODE = Sign(r'entering low vram mode"?(?: "total vram"="(?P<vram>[^"]*)")?')

# -- requests
ACCESS = Sign(
    r"\[GIN\] (?P<time>\d{4}/\d\d/\d\d - \d\d:\d\d:\d\d) \| ?(?P<status>\d{3}) ?\| ?(?P<took>\S+) ?\| ?"
    r"(?P<client>\S+) ?\| ?(?P<method>\w+) \"(?P<path>[^\"]*)\"",
    words=["[gin]"],
    first=500,
    last=4000,
)

# -- loads. Discovery starts runners too; those are given no model.
STARTING = Sign(
    r'msg="starting (?:llama-server|llama server|runner)" cmd="?(?P<cmd>.*?(?: --model| -m) .*?)"?$',
    words=["starting llama-server", "starting llama server", "starting runner"],
    first=_FIRST,
    last=_LAST,
)
ESTIMATE = Sign(
    r'msg="?offload(?: to \w+)?"? .*\blayers\.\w+=-?\d+', words=["layers."], first=_FIRST, last=_LAST
)
LOAD_REQUEST = Sign(
    r'msg=load request="?\{Operation:(?P<operation>\w+)', words=["{operation:"],
    first=_FIRST,
    last=_LAST,
)  # fmt: skip
FITS = Sign(
    r"new model will fit in available VRAM|llama-server model fits alongside existing models"
    r"|llama-server model predicted to exceed available memory",
    first=_FIRST,
    last=_LAST,
)
GPU_MEMORY = Sign(r'msg="gpu memory" id=\S* .*\bavailable="(?P<available>[^"]*)"', first=_FIRST, last=_LAST)
LAYOUT = Sign(
    r'msg="(?P<term>model weights|kv cache|compute graph|total memory)" .*\bsize="(?P<size>[^"]*)"',
    words=["model weights", "kv cache", "compute graph", "total memory"],
    first=_FIRST,
    last=_LAST,
)
OFFLOADED = Sign(
    r"offload(?:ed|ing)? (?P<on>\d+)/(?P<of>\d+) layers to GPU",
    words=["layers to gpu"],
    first=_FIRST,
    last=_LAST,
)
STARTED = Sign(
    r"(?P<who>llama runner|llama-server|runner) started in (?P<seconds>[\d.]+) seconds",
    first=_FIRST,
    last=_LAST,
)
LOADED_RUNNERS = Sign(r'msg="loaded runners" count=(?P<count>\d+)', first=_FIRST, last=_LAST)
UPDATED_VRAM = Sign(
    r'msg="updated VRAM based on existing loaded models".*\bavailable="(?P<available>[^"]*)"',
    first=_FIRST,
    last=_LAST,
)
LOAD_FAILED = Sign(
    r'(?:msg="(?:Load failed|error loading llama server|NewLlamaServer failed|failed to create server'
    r'|failed to load model metadata)"'
    r"|error loading llama server|Load failed) ?(?:.*?\bmodel=(?P<model>\S+))?"
    r"(?:.*?\berror=\"?(?P<error>.*?)\"?$)?",
    first=_FIRST,
    last=_LAST,
)  # fmt: skip
CLIENT_LEFT_LOAD = Sign(
    r"client connection closed before (?:llama-)?server finished loading"
    r"|timed out waiting for (?:llama runner|llama-server|server)\b.* to start\b.*context canceled",
    first=_FIRST,
    last=_LAST,
)
RELOADING = Sign(r"msg=reloading|reloading runner|reload(?:ing)? model", words=["reload"])
