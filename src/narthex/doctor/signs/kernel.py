"""Lines of the Linux kernel and of those who speak to it: NVRM, Xid, amdgpu, modules, sleep, boots."""

from __future__ import annotations

from narthex.doctor.sign import Sign

XID = Sign(
    r"\bXid(?: \((?:PCI:)?(?P<pci>[0-9a-f]{2,}[0-9a-f:.]*)\))?(?: ?[:=]| error:?)? (?P<number>\d{1,3})\b"
    r"(?:,? pid='?(?P<pid>\d+|<[^>]*>)'?)?(?:, name=(?P<name>[^,]+))?",
    words=["xid"],
    first=40,
    last=120,
)
BOOT = Sign(r"Linux version \d+\.\d+|-- (?:Boot|Reboot)\b", words=["linux version", "-- boot", "-- reboot"])

FELL_OFF = Sign(r"fallen off the bus|amdgpu: device lost from bus|device lost from bus!")
UNREACHABLE = Sign(
    r"(?:nvidia|amdgpu|vfio-pci) [0-9a-f:.]+: .*(?:config space inaccessible|device inaccessible)",
    words=["inaccessible"],
)
GSP_SILENT = Sign(
    r"Timeout (?:waiting for RPC from GSP|after \d+s of waiting for RPC response from GPU\d* GSP)"
    r"|GSP RPC timeout detected"
)
INIT_FAILED = Sign(r"RmInitAdapter failed|rm_init_adapter failed")

API_MISMATCH = Sign(
    r"NVRM: API mismatch: (?:the|this) client (?:\S+ )?has (?:the )?version (?P<client>\d[\d.]+\d)|"
    r"NVRM: API mismatch"
)
MODULE_VERSION = Sign(
    r"kernel module has the version (?P<module>\d[\d.]+\d)"
    r"|NVRM version: .*?(?:Kernel Module.*?) (?P<nvrm>\d{3}\.[\d.]+\d)"
    r"|/proc/driver/nvidia/version\b\D+(?P<proc>\d{3}\.[\d.]+\d)",
    words=["kernel module has the version", "nvrm version", "proc/driver/nvidia/version"],
)

NVIDIA_REFUSED = Sign(
    r"could not insert '?\"?nvidia(?![-_](?:current-)?uvm)\b|insmod: ERROR.*nvidia"
    r"|nvidia(?:\.ko)?: version magic"
    r"|nvidia: disagrees about version of symbol|nvidia: Unknown symbol"
    r"|modprobe: FATAL: Module nvidia(?:-current)? not found|Unable to load the kernel module 'nvidia"
    r"|nvidia.*(?:Key was rejected by service|Required key not available)"
    r"|(?:Key was rejected by service|Required key not available).*nvidia",
    words=[
        "could not insert",
        "insmod",
        "version magic",
        "disagrees about",
        "nvidia: unknown symbol",
        "module nvidia",
        "kernel module 'nvidia",
        "key was rejected",
        "required key not available",
    ],
)
NVIDIA_NOT_PROBED = Sign(
    r"NVRM: The NVIDIA probe routine was not called|NVRM: None of the NVIDIA devices were (?:probed"
    r"|initialized)"
    r"|NVRM: No NVIDIA (?:devices probed|graphics adapter found|GPU found)"
    r"|NVRM: .*not supported by (?:the NVIDIA|open)|NVRM: .*requires use of the NVIDIA open kernel modules"
    r"|NVRM: This can occur when a driver such as|supported through the NVIDIA \d+\.xx Legacy drivers"
    r"|NVRM: .*nouveau|NVRM: Open nvidia\.ko is only ready for use on Data Center GPUs",
    words=["nvrm: ", "legacy drivers"],
)
DKMS_FAILED = Sign(
    r"Bad return status for module build on kernel|nvidia[-/][\d.]+.*?\bdkms\b.*(?:fail|error)"
    r"|Building module.*nvidia.*(?:failed|error)|dkms(?: autoinstall)?:? .*nvidia.*failed",
    words=["bad return status", "dkms", "building module"],
)
NOUVEAU_IN_USE = Sign(r"Kernel driver in use: nouveau")
LSPCI_NVIDIA = Sign(
    r"(?:VGA compatible controller|3D controller|Display controller)[^:]*: ?NVIDIA", words=["controller"]
)
LSPCI_GONE = Sign(
    r"(?:controller[^:]*: ?NVIDIA.*\(rev ff\)|!!! Unknown header type 7f)",
    words=["(rev ff)", "unknown header type"],
)

SLEEP = Sign(
    r"PM: (?:suspend|hibernation)(?: entry| exit|:)|PM: (?:resume|restore) of devices complete"
    r"|Entering sleep state|System returned from sleep|Performing sleep operation"
    r"|Waking up from system sleep state|Lid (?:closed|opened)|The system will (?:suspend|hibernate) now"
    r"|Suspending system|Reached target (?:Sleep|Suspend|Hibernat)",
    words=[
        "pm: ",
        "sleep state",
        "returned from sleep",
        "sleep operation",
        "lid closed",
        "lid opened",
        "the system will",
        "suspending system",
        "reached target",
    ],
)
SLEEP_TOLD = Sign(
    r"after (?:a |the |every |each |waking |system )?(?:suspend|resum|hibernat|sleep|wake|lid)"
    r"|(?:suspend|sleep|hibernate)[/ -](?:and[ -])?(?:resume|wake)|systemctl (?:suspend|hibernate)",
    words=["suspend", "resum", "hibernat", "sleep", "wak", "lid"],
    kinds=("commands", "client_error", "nvidia_smi"),
)
POWERED_DOWN = Sign(r"runtime_status\W+(?:is )?suspended")
SLEEP_FAULT = Sign(
    r"System Power Management attempted without driver procfs suspend interface"
    r"|nv_pmops_(?:suspend|resume|freeze|thaw)\S* returns -\d+|nvidia [0-9a-f:.]+: PM: failed to \w+",
    words=["procfs suspend interface", "nv_pmops_", "pm: failed to"],
)

AMD_FAULT = Sign(
    r"GCVM_L2_PROTECTION_FAULT|\[(?:gfx|mm)hub\d*\].*page fault|ring \S+ timeout, |GPU reset begin"
    r"|VRAM is lost due to GPU reset|HW Exception by GPU node|Memory access fault by GPU node"
    r"|amdgpu.*\*ERROR\*.*(?:failed|timed out)|MES failed to respond",
    words=[
        "gcvm_l2_protection_fault",
        "page fault",
        "timeout, ",
        "gpu reset",
        "hw exception",
        "memory access fault",
        "*error*",
        "mes failed",
    ],
)
KFD_DENIED = Sign(
    r"/dev/kfd.*(?:permission denied|operation not permitted)|permission problems block access"
    r"|Unable to open /dev/kfd|Failed to get user name to check for video group",
)
