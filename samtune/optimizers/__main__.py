"""Print docs/variants.md: `python -m samtune.optimizers > docs/variants.md`."""

import runpy
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "make_variants.py"

if __name__ == "__main__":
    if not PAGE.exists():
        sys.exit(f"the page is made by docs/make_variants.py of the repository; {PAGE} is missing")
    runpy.run_path(str(PAGE), run_name="__main__")
