"""``zoomiqa``: judge images from the command line.

Results go to the standard output, everything else to the standard error. Exit codes: 0 done,
1 error (wrong usage, or nothing could run), 2 no input gave a valid result, 130 interrupted.
"""

from __future__ import annotations

from zoomiqa_core.cli.draw import draw_maps
from zoomiqa_core.cli.environment import show_environment
from zoomiqa_core.cli.evaluate import evaluate_judge
from zoomiqa_core.cli.options import new_program
from zoomiqa_core.cli.score import regions, score

app = new_program("Judge image quality: ratings from 1 (bad) to 5 (excellent), and maps of where.")

app.command()(score)
app.command()(regions)
app.command("map")(draw_maps)
app.command("eval")(evaluate_judge)
app.command("env")(show_environment)

if __name__ == "__main__":
    app()
