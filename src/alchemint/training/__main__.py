"""`torchrun --nproc-per-node 8 -m alchemint.training RECIPE [key.path=value …]`: short for `alchemint train`."""

import sys

from alchemint.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
