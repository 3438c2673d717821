"""How a load, a trial or a soak can end: a closed set, used by engines, trials and the journal alike."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """One word for how it ended. Everything but ``DONE`` comes with the line that proves it."""

    DONE = "done"
    OUT_OF_MEMORY = "out_of_memory"  # on load: weights, KV cache or compute buffers did not fit
    OUT_OF_MEMORY_COMPUTE = "out_of_memory_compute"  # after a good load, while computing
    KILLED_BY_KERNEL = "killed_by_kernel"  # host memory: the kernel's oom-killer or a cgroup limit
    HOST_OUT_OF_MEMORY = "host_out_of_memory"  # the engine says that main memory is too small for the model
    UNSUPPORTED_FLAG = "unsupported_flag"
    UNSUPPORTED_SETTING = "unsupported_setting"  # the engine knows the flag but not this combination
    UNSUPPORTED_ARCHITECTURE = "unsupported_architecture"
    CORRUPT_FILE = "corrupt_file"
    FILE_MISSING = "file_missing"  # the model is known, its file is gone
    MODEL_UNKNOWN = "model_unknown"  # the server has no model of that name
    DISK_FULL = "disk_full"
    PORT_IN_USE = "port_in_use"
    CRASHED = "crashed"  # ended by a signal that is no memory failure
    RUNNER_DIED = "runner_died"  # the server lives, the process that computes for it is gone
    SERVER_DOWN = "server_down"  # a server that narthex did not start does not answer any more
    QUEUE_FULL = "queue_full"  # the server has too many requests waiting
    CLIENT_GONE = "client_gone"  # the load ended because the client left
    LOAD_TIMEOUT = "load_timeout"  # the server gave up waiting for its own load
    STALLED = "stalled"  # alive, but no progress
    TIMEOUT = "timeout"  # progress, but longer than the trial may take
    UNSTABLE = "unstable"  # a soak found drift, growth, errors or stalls
    PROMPT_TRUNCATED = "prompt_truncated"  # the engine cut the prompt, or refused it as too long
    REQUEST_FAILED = "request_failed"  # the engine answered a request with an error
    INTERRUPTED = "interrupted"  # the user stopped it
    FAILED = "failed"  # ended with an exit code and no known line

    @property
    def is_memory(self) -> bool:
        """True where less memory is the remedy: the outcomes that a back-off answers."""
        return self in _MEMORY


_MEMORY = frozenset(
    {
        Outcome.OUT_OF_MEMORY,
        Outcome.OUT_OF_MEMORY_COMPUTE,
        Outcome.KILLED_BY_KERNEL,
        Outcome.HOST_OUT_OF_MEMORY,
    }
)
