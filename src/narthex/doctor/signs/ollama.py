"""Lines of Ollama and of the llama.cpp runner under it, of all eras."""

from __future__ import annotations

from narthex.doctor.sign import Sign

LISTENING = Sign(r"Listening on (?P<address>\S+):(?P<port>\d+) \(version (?P<version>[^)\s]+)\)")
COMPUTE = Sign(r'msg="inference compute" (?P<rest>.*)')
ACCESS = Sign(
    r"\[GIN\] (?P<time>\d{4}/\d\d/\d\d - \d\d:\d\d:\d\d) \| ?(?P<status>\d{3}) ?\| ?(?P<took>\S+) ?\| ?"
    r"(?P<client>\S+) ?\| ?(?P<method>\w+) \"(?P<path>[^\"]*)\"",
    words=["[gin]"],
    first=500,
    last=4000,
)
OFFLOADED = Sign(r"offload(?:ed|ing)? (?P<on>\d+)/(?P<of>\d+) layers to GPU", words=["layers to gpu"])
