"""Print pip constraints that pin every dependency to its floor in pyproject.toml."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
requirements = project["dependencies"] + project["optional-dependencies"]["test"]
for requirement in requirements:
    print(re.sub(r"\[.*\]", "", requirement).replace(">=", "=="))
