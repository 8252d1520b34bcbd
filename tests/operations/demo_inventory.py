"""The droplet of the demo deploy."""

import os

hosts = [("operations", {"ssh_config_file": os.environ["DEMO_SSH_CONFIG"], "ssh_user": "root"})]
