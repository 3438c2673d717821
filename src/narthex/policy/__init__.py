"""The house policy: what ``narthex.toml`` says. Read it with :func:`load_policy`."""

from narthex.policy.reading import find_config, load_policy, read_policy
from narthex.policy.records import GatewayPolicy, ModelPolicy, Policy, RolePolicy, TenantPolicy

__all__ = [
    "GatewayPolicy",
    "ModelPolicy",
    "Policy",
    "RolePolicy",
    "TenantPolicy",
    "find_config",
    "load_policy",
    "read_policy",
]
