"""Write the JSON Schema of storyboards to docs/, for editors that complete and check YAML by it.

    python scripts/export_schema.py
"""

import json
from pathlib import Path

from alchemint.media import write_text
from alchemint.storyboard import Storyboard

SCHEMA = Path(__file__).resolve().parent.parent / "docs" / "storyboard.schema.json"


def schema_text() -> str:
    """Return the schema as it is to stand in the file."""
    return json.dumps(Storyboard.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write_text(SCHEMA, schema_text())
