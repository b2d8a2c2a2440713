"""`python -m tinygrad_cnn.exercises` is `tinygrad-cnn ex`."""

import sys

from .commands import main

sys.exit(main())
