"""Lines of the llama.cpp runner, under Ollama and alone, of builds of several years, that tell a load."""

from __future__ import annotations

from narthex.doctor.sign import Sign

_FIRST, _LAST = 300, 2400

META = Sign(
    r"llama_model_loader: loaded meta data with \d+ key-value pairs and \d+ tensors from (?P<path>.*?)"
    r"(?: \(version.*)?$",
    first=_FIRST,
    last=_LAST,
)
TENSORS = Sign(r"loading model tensors, this can take a while", first=_FIRST, last=_LAST)
BUFFER = Sign(
    r"\w+: (?P<buffer>\S+) (?:(?P<kind>model|KV|RS|DSV4 .*state|compute|output|LoRA) )?"
    r"buffer size = (?P<mib>[\d.]+) MiB",
    words=["buffer size"],
    first=_FIRST,
    last=_LAST,
)
CONTEXT = Sign(
    r"constructing llama_context|(?:llama_\w+): (?:n_seq_max|n_ctx|n_ctx_seq|n_ctx_per_seq|n_batch|n_ubatch)"
    r" += (?P<value>\d+)",
    words=["n_seq_max", "n_ctx", "n_batch", "n_ubatch", "constructing llama_context"],
    first=_FIRST,
    last=_LAST,
)
SLOT = Sign(r"(?:n_slots = \d+, |new slot,? )n_ctx_slot = (?P<ctx>\d+)", first=_FIRST, last=_LAST)
MODEL_LOADED = Sign(
    r"(?:llama_server|main|server_main)\s*[:\]] ?model loaded|\[ *main\] model loaded"
    r"|starting (?:the|internal llama|llama) main loop|llama server main loop starting",
    words=["model loaded", "main loop"],
    first=_FIRST,
    last=_LAST,
)
MODEL_ERROR = Sign(
    r"error loading model(?: architecture| vocabulary| hyperparameters)?: (?P<why>.*)|failed to load model\b"
    r"(?! metadata)|unable to load model|exiting due to model loading error"
    r"|error while handling argument \"?(?P<flag>[^\s\"]+)",
    words=["error loading model", "failed to load model", "unable to load model", "model loading error",
           "error while handling argument"],
    first=_FIRST,
    last=_LAST,
)  # fmt: skip
OWN_START = Sign(
    r"^(?:[\d. ]+I )?(?:main: build = \d+|build: \d+ \(|.*common_params_print_info: build \d+"
    r"|main: loading model|srv load_model: loading model '(?P<path>[^']*)')|INFO \[ *main\] build info",
    words=["build = ", "build: ", "print_info: build", "main: loading model", "load_model: loading model",
           "build info"],
    first=_FIRST,
    last=_LAST,
)  # fmt: skip
