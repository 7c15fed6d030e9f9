"""`python -m alchemint` is `alchemint`."""

from alchemint.cli.main import main

if __name__ == "__main__":
    main()
