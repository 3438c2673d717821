"""Lines of systemd about a service that does not start, and the steps before the program itself."""

from __future__ import annotations

import re

from narthex.doctor.evidence import Hit
from narthex.doctor.sign import Sign

OURS = re.compile(r"ollama|webui|comfy|llama|narthex", re.IGNORECASE)
OWN_LOGS = ("ollama_log", "llama_server_log", "openwebui_log", "comfyui_log")
_UNIT = r"(?:(?P<unit>[\w@.\\-]+\.service): )?"

# Exit codes 200 to 245 are systemd's own: the step before the program that failed (systemd.exec(5)).
STATUS = Sign(
    _UNIT + r".*(?:status|code)[=:] ?(?P<code>2[0-4]\d)/(?P<step>[A-Z_]+)\b", words=["status=2", "code=2"]
)
STEP = Sign(
    _UNIT + r".*Failed at step (?P<step>[A-Z_]+) spawning (?P<what>\S+?):? ?(?P<why>[A-Z][^:]*)?$",
    words=["failed at step"],
)
DETAIL = Sign(
    _UNIT + r".*(?:Unable to locate executable|Failed to locate executable|Failed to execute command"
    r"|Changing to the requested working directory failed|Failed to determine user credentials"
    r"|Failed to set up mount namespacing|Failed to set up special execution directory"
    r"|Failed to load environment files|Failed to determine supplementary groups).*",
    words=["locate executable", "failed to execute command", "requested working directory",
           "failed to determine", "failed to set up", "failed to load environment files"],
)  # fmt: skip
UNIT_FILE = Sign(
    _UNIT + r".*(?:has a bad unit file setting|has no ExecStart= setting|Service has no ExecStart"
    r"|Executable path is not absolute|Neither a valid executable name nor an absolute path"
    r"|Unit (?P<name>\S+) is masked|Unit (?P<absent>\S+\.service) (?:not found|could not be found))",
    words=["bad unit file setting", "execstart", "executable path is not absolute",
           "neither a valid executable name", "is masked", "not found", "could not be found"],
)  # fmt: skip
IGNORED = Sign(
    r"(?P<file>/\S+\.(?:service|conf)):(?P<line>\d+): (?:Unknown (?:key name|key|lvalue|section)"
    r"|Invalid (?:section header|environment assignment)|Missing '='|Assignment outside of section"
    r"|Unbalanced quoting|Failed to parse).*",
    words=["unknown ", "invalid section", "invalid environment", "missing '='", "outside of section",
           "unbalanced quoting", "failed to parse"],
)  # fmt: skip
BAD_WORD = Sign(
    r"^(?:Error: |error: )?(?:unknown (?:shorthand )?flag: ?(?P<flag>.+)"
    r"|unknown command \"?(?P<command>[^\" ]+)\"? for \"?ollama\"?|flag provided but not defined: (?P<go>\S+)"
    r"|invalid argument: (?P<llama>-\S+)|unrecognized arguments: (?P<python>.+))",
    words=["unknown flag", "unknown shorthand flag", "unknown command", "provided but not defined",
           "invalid argument: -", "unrecognized arguments"],
)  # fmt: skip
NO_HOME = Sign(  # Ollama's only panic in that function; a journal that is cut shows the frame alone
    r"\$HOME is not defined|ollama/envconfig\.Models\(", words=["$home is not defined", "envconfig.models("]
)
RESTARTS = Sign(_UNIT + r".*restart counter is at (?P<count>\d+)", words=["restart counter is at"])
TOO_QUICK = Sign(
    _UNIT + r".*(?:Start request repeated too quickly|start-limit-hit)"
    r"|(?P<old>[\w@.\\-]+\.service) holdoff time over, scheduling restart",  # systemd before 229
    words=["repeated too quickly", "start-limit-hit", "holdoff time over"],
)
EXITED = Sign(
    _UNIT + r"(?:Main process exited, code=exited, status=(?P<code>\d+)/(?P<name>\S+)"
    r"|.*\(Result: exit-code\).*|.*\(code=exited, status=(?P<code2>\d+)(?:/\S+)?\))",
    words=["main process exited", "exit-code", "code=exited"],
)
SAID = Sign(
    r"^(?:Error|error|panic|fatal error): (?P<what>.+)", words=["error: ", "panic: "], first=20, last=40
)
# What other rules name: the unit is not at fault then.
OTHERS = Sign(
    r"permission denied|in use|no space left|listen tcp|core-dump|code=(?:killed|dumped)|oom-kill|\bsignal: "
    r"|Illegal instruction|panic: |shared libraries|GLIBC|Segmentation|cannot allocate|out of memory"
    r"|read-only file",
    words=[
        *("permission denied", "in use", "no space left", "listen tcp", "core-dump", "code=killed"),
        *("code=dumped", "oom-kill", "signal: ", "illegal instruction", "panic: ", "shared libraries"),
        *("glibc", "segmentation", "cannot allocate", "out of memory", "read-only file"),
    ],
    first=5,
    last=5,
)
STEPS = {
    "EXEC": "the program of ExecStart= is not there, or is not executable",
    "CHDIR": "the folder of WorkingDirectory= is not there, or the service's user may not enter it",
    "USER": "the user of User= does not exist",
    "GROUP": "the group of Group= or SupplementaryGroups= does not exist",
    "NAMESPACE": "a folder of ReadWritePaths=, BindPaths= or the like does not exist, or the sandbox is not "
    "allowed",
    "STATE_DIRECTORY": "systemd can't make or take the folder of StateDirectory= below /var/lib",
    "RUNTIME_DIRECTORY": "systemd can't make the folder of RuntimeDirectory= below /run",
    "CACHE_DIRECTORY": "systemd can't make or take the folder of CacheDirectory=",
    "LOGS_DIRECTORY": "systemd can't make or take the folder of LogsDirectory=",
    "STDOUT": "the file of StandardOutput= can't be opened",
    "STDERR": "the file of StandardError= can't be opened",
    "LIMITS": "a limit of the unit (LimitNOFILE=, LimitMEMLOCK=) can't be set",
}


def is_ours(hit: Hit) -> bool:
    """Whether a line is about a service of this stack."""
    groups = hit.match.groupdict()
    unit = groups.get("unit") or groups.get("old") or groups.get("name") or groups.get("absent") or ""
    if groups.get("absent"):
        return bool(OURS.search(unit)) and "failed to" in hit.entry.plain.lower()
    # in a log that is a service's own its unit may have any name
    return not unit or bool(OURS.search(unit)) or hit.entry.kind in OWN_LOGS
