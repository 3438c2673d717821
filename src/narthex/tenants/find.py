"""``find_tenant``: from the name behind ``--beside`` to a program on the card."""

from __future__ import annotations

from pathlib import Path

from narthex.errors import UsageError
from narthex.policy import Policy, TenantPolicy
from narthex.tenants._base import Tenant
from narthex.tenants.comfyui import ComfyTenant
from narthex.tenants.command import CommandTenant

COMFYUI = "comfyui"


def find_tenant(name: str, policy: Policy) -> Tenant:
    """The tenant of that name in the policy; «comfyui» is known without a line there.

    Nothing is asked or started yet. Raises UsageError for an unknown name.
    """
    row = policy.tenant(name) or (TenantPolicy(name=COMFYUI) if name == COMFYUI else None)
    if row is None:
        known = ", ".join(dict.fromkeys((COMFYUI, *(each.name for each in policy.beside))))
        raise UsageError(
            f"There is no tenant «{name}».",
            hint=f"Known: {known}. Add one to narthex.toml: "
            f'[beside.{name}] with job = ["program", "argument"].',
        )
    if row.job is not None:
        return CommandTenant(row.name, row.job, row.process)
    return ComfyTenant(row.name, row.url, _workflow(row, policy), row.process)


def _workflow(row: TenantPolicy, policy: Policy) -> Path | None:
    """A relative path counts from the folder of narthex.toml."""
    if row.workflow is None:
        return None
    folder = Path(policy.path).parent if policy.path else Path()
    return folder / Path(row.workflow).expanduser()
