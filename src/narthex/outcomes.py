"""How a load, a trial or a soak can end: a closed set, used by engines, trials and the journal alike."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """One word for how it ended. Everything but ``DONE`` comes with the line that proves it."""

    DONE = "done"
    OUT_OF_MEMORY = "out_of_memory"  # on load: weights, KV cache or compute buffers did not fit
    OUT_OF_MEMORY_COMPUTE = "out_of_memory_compute"  # after a good load, while computing
    KILLED_BY_KERNEL = "killed_by_kernel"  # host memory: the kernel's oom-killer or a cgroup limit
    UNSUPPORTED_FLAG = "unsupported_flag"
    UNSUPPORTED_SETTING = "unsupported_setting"  # the engine knows the flag but not this combination
    UNSUPPORTED_ARCHITECTURE = "unsupported_architecture"
    CORRUPT_FILE = "corrupt_file"
    PORT_IN_USE = "port_in_use"
    CRASHED = "crashed"  # ended by a signal that is no memory failure
    STALLED = "stalled"  # alive, but no progress
    TIMEOUT = "timeout"  # progress, but longer than the trial may take
    UNSTABLE = "unstable"  # a soak found drift, growth, errors or stalls
    REQUEST_FAILED = "request_failed"  # the engine answered a request with an error
    INTERRUPTED = "interrupted"  # the user stopped it
    FAILED = "failed"  # ended with an exit code and no known line

    @property
    def is_memory(self) -> bool:
        """True where less memory is the remedy: the outcomes that a back-off answers."""
        return self in _MEMORY


_MEMORY = frozenset({Outcome.OUT_OF_MEMORY, Outcome.OUT_OF_MEMORY_COMPUTE, Outcome.KILLED_BY_KERNEL})
