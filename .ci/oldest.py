"""Print pip constraints that pin every dependency to its floor in pyproject.toml."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in project["dependencies"] + extras["test"] + extras["train"]:
    if not requirement.startswith(project["name"]):  # an extra that takes in another
        print(re.sub(r"\[.*\]", "", requirement).replace(">=", "=="))
