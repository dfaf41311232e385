"""Run the README's examples, so that it stays true.

Every fenced block that follows a line `<!-- ci -->` is run from the repository's root, in order and
with the environment's programs first on the path: `bash` blocks by bash, `python` blocks by Python.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

BLOCK = re.compile(r"^<!-- ci -->\n+```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNERS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


def main(readme: Path) -> int:
    blocks = BLOCK.findall(readme.read_text(encoding="utf-8"))
    if not blocks:
        print(f"{readme}: no block is marked <!-- ci -->", file=sys.stderr)
        return 1
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for language, text in blocks:
        print(f"--- {language}\n{text}---", flush=True)
        start = time.perf_counter()
        ended = subprocess.run(
            [*RUNNERS[language], text],
            cwd=readme.resolve().parent,
            env={**os.environ, "PATH": programs},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        print(f"--- {time.perf_counter() - start:.1f} s, exit code {ended.returncode}", flush=True)
        if ended.returncode:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
