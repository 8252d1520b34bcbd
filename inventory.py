"""The hosts: `$DROPLET_HOST` (with DROPLET_USER, DROPLET_PORT, DROPLET_KEY), or the local drill droplet.

Every list is a role. To grow beyond one machine, name different hosts in different roles.
"""

from settings.errors import one_sentence
from settings.hosts import target

with one_sentence():
    _host = target().pyinfra_host()

database = [_host]
vectors = [_host]
automation = [_host]
chat = [_host]
monitoring = [_host]
secrets = [_host]
ingress = [_host]
