"""`python -m memory_service` is `memory-service`."""

import sys

from memory_service.cli import main

sys.exit(main())
