"""Every setting with its default. Change them in `settings.yml`, not here.

`settings.yml` (beside inventory.py, or wherever $DROPLET_SETTINGS points) holds `name: value` lines
for the settings that differ; `--data name=value` changes one for a single run. Names, types and
combinations are checked before anything is touched. Secrets are never settings: see `drill secrets`.
"""

from __future__ import annotations

from typing import Literal

# --- The machine --------------------------------------------------------------------------------
hostname: str = ""  # empty: the name in the inventory
timezone: str = "UTC"  # IANA name; the nightly cleanup runs at cleanup_hour in it
locale: str = "C.UTF-8"
admin_user: str = "operator"  # a person's account: key only, sudo
admin_ssh_keys: list[str] = []  # empty: the keys that may already log in as root
sshd_port: int = 22  # where the host's sshd listens; the firewall opens it
journald_max_mb: int = 200
unattended_reboot: bool = False  # reboot by itself at 04:30 when a security update needs it
zram: bool = True  # compressed swap in memory, as large as the memory; skipped where the kernel has none
swap_mb: int = 1024  # swap file behind zram; 0: none; skipped in a container

# --- What is reachable --------------------------------------------------------------------------
ingress: Literal["none", "caddy", "cloudflare"] = "none"  # none: nothing public but SSH
ingress_tls: Literal["acme", "internal"] = "acme"  # internal: Caddy's own CA
domain: str = ""  # n8n.DOMAIN, openweb.DOMAIN, ...
acme_email: str = ""  # where the certificate authority writes to
cloudflare_account_id: str = ""  # these three with ingress: cloudflare; see `drill tunnel --help`
cloudflare_zone_id: str = ""
cloudflare_tunnel_id: str = ""
tunnel_protocol: Literal["auto", "http2"] = "auto"  # http2: where the network drops UDP to port 7844

# --- Images -------------------------------------------------------------------------------------
image_registry: str = ""  # empty: the public registries; else host[:port] every pull goes to
image_registry_insecure: bool = False  # plain HTTP, only for a private address
image_lock: str = ""  # JSON file with the digests of that registry; empty: those of images.toml

# --- Memory limits (walls, not reservations), in MiB --------------------------------------------
postgres_memory_mb: int = 320
qdrant_memory_mb: int = 400
ingress_memory_mb: int = 96
tunnel_memory_mb: int = 96
n8n_memory_mb: int = 640
open_webui_memory_mb: int = 512
memory_service_memory_mb: int = 200

# --- Postgres and Qdrant ------------------------------------------------------------------------
postgres_max_connections: int = 60
qdrant_shard_number: int = 1
qdrant_replication_factor: int = 1

# --- The memory ---------------------------------------------------------------------------------
memory_ttl_days: int = 90  # how long a memory entry lives unless it says otherwise
cleanup_hour: int = 2  # local hour of the nightly cleanup, 0-23
alert_forward_url: str = ""  # where n8n posts new alerts as JSON {title, text}; empty: only recorded
context_token_budget: int = 1500  # upper bound of what is injected into one prompt, in tokens
llm_daily_token_budget: int = 500_000  # extraction stops for the day beyond it; 0: no limit

# --- Providers (any OpenAI-compatible API); their keys are secrets --------------------------------
llm_base_url: str = "https://openrouter.ai/api/v1"
llm_model: str = "openai/gpt-4o-mini"  # the chat model and the extraction model
embedding_base_url: str = ""  # empty: the model built into the memory service, no account needed
embedding_model: str = ""  # empty: the provider's usual one, or the built-in one

# --- Accounts -----------------------------------------------------------------------------------
n8n_owner_email: str = "owner@example.com"
open_webui_admin_email: str = "admin@example.com"
clients: list[dict[str, object]] = [  # one line per person whose chats are remembered
    {
        "id": "test-client-001",
        "name": "Test Client 001",
        "email": "test-client-001@example.com",
        "group": "memory-test",
        "tags": ["memory-test", "phase3-eval"],
    },
]
