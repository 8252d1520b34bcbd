"""The machine, top to bottom: check what was asked for, then one component after the other.

Run some of them with `--data only=qdrant,n8n`; print the exact commands of a dry run with
`--dry --data plan=1`.
"""

from pyinfra import host, logger

from operations.plan import print_plan
from settings.errors import one_sentence
from settings.pages import pages
from settings.run import chosen, prepare
from tasks.base import base
from tasks.docker import docker
from tasks.firewall import firewall
from tasks.ingress import ingress
from tasks.memory_service import memory_service
from tasks.n8n import n8n
from tasks.open_webui import open_webui
from tasks.postgres import postgres
from tasks.preflight import preflight
from tasks.qdrant import qdrant
from tasks.release import release
from tasks.ssh import ssh
from tasks.tunnel import tunnel

COMPONENTS = {
    "preflight": preflight,
    "base": base,
    "ssh": ssh,
    "firewall": firewall,
    "docker": docker,
    "postgres": postgres,
    "qdrant": qdrant,
    "memory_service": memory_service,
    "n8n": n8n,
    "ingress": ingress,
    "open_webui": open_webui,
    "tunnel": tunnel,  # the way in is opened last
    "release": release,
}

with one_sentence():
    options = prepare(host)
    for component in chosen(COMPONENTS, options.only):
        component()

for line in pages(host.data, f"ssh -F {host.data.ssh_config_file} {host.name}"):
    host.log(line, logger.info)

if options.plan:
    print_plan()
