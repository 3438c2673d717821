"""Service and network: one rule a file."""

from __future__ import annotations

from types import ModuleType

from narthex.doctor.rules.service import (
    bind_address_refused,
    cors_origin_403,
    disk_full,
    exposed_to_network,
    models_dir_permission,
    ollama_unreachable,
    port_in_use,
    proxy_intercepts_local,
    pull_digest_mismatch,
    pull_dns_failure,
    pull_interrupted,
    pull_tls_failure,
    queue_full,
    service_unit_misconfig,
)

MODULES: tuple[ModuleType, ...] = (
    port_in_use,
    bind_address_refused,
    service_unit_misconfig,
    ollama_unreachable,
    models_dir_permission,
    disk_full,
    pull_dns_failure,
    pull_tls_failure,
    pull_interrupted,
    pull_digest_mismatch,
    proxy_intercepts_local,
    cors_origin_403,
    queue_full,
    exposed_to_network,
)
