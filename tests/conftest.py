"""What all tests share."""

import os

# As the command line does (see cli/main.py); torch reads it when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
