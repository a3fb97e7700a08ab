"""`python -m foursight` is `foursight`."""

import sys

from foursight.clients.cli.app import main

sys.exit(main())
