"""A distribution whose files are the code blocks of a documentation page: each begins with `# path/to/file.py`."""

import re
from pathlib import Path


def write_documented_distribution(page: Path, folder: Path, *, name: str, group: str) -> Path:
    """Write the distribution as `pip install` would leave it, and return the folder.

    name: of the package, whose entry point the page shows. group: of that entry point.
    """
    text = page.read_text(encoding="utf-8")
    for path, code in re.findall(r"^```python\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, encoding="utf-8")
    [(entry, target)] = re.findall(rf'^(\w+) = "({name}[\w.]*:\w+)"$', text, re.MULTILINE)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{entry} = {target}\n")
    return folder
