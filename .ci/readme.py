"""Run the examples of the README and of documentation pages, so that they stay true.

    python .ci/readme.py README.md docs/*.md

Every fenced block that follows a line `<!-- ci -->` is run from the repository's root, in order and
with the environment's programs first on the path: `bash` blocks by bash, `python` blocks by Python.
A page without such a block is passed over.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

BLOCK = re.compile(r"^<!-- ci -->\n+```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNERS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
ROOT = Path(__file__).resolve().parents[1]


def main(pages: list[Path]) -> int:
    blocks = [
        (page, language, text)
        for page in pages
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8"))
    ]
    if not blocks:
        print(f"no block of {', '.join(map(str, pages))} is marked <!-- ci -->", file=sys.stderr)
        return 1
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for page, language, text in blocks:
        print(f"--- {page}: {language}\n{text}---", flush=True)
        start = time.perf_counter()
        ended = subprocess.run(
            [*RUNNERS[language], text],
            cwd=ROOT,
            env={**os.environ, "PATH": programs},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        print(f"--- {time.perf_counter() - start:.1f} s, exit code {ended.returncode}", flush=True)
        if ended.returncode:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
