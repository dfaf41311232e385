"""``restoration-guide``: restore images N ways and keep the best, from the command line.

Results go to the standard output, everything else to the standard error. Exit codes: 0 done,
1 error (wrong usage, a restorer or a report that failed), 2 no input gave a valid result (images
that cannot be read, candidates that cannot be judged), 130 interrupted. A bad image never stops
the others.
"""

from __future__ import annotations

from restoration_guide.cli.app import serve
from restoration_guide.cli.best_of_n import DEMO_PHOTO, best_of_n, demo
from restoration_guide.cli.calibrate import calibrate_gate
from restoration_guide.cli.gate import gate
from restoration_guide.cli.pick import pick
from restoration_guide.cli.prompts import prompts
from zoomiqa_core.cli.options import new_program

__all__ = ["DEMO_PHOTO", "app"]

app = new_program("Restore images N ways, judge every candidate, keep the best one or the input.")

app.command("best-of-n")(best_of_n)
app.command("pick")(pick)
app.command("gate")(gate)
app.command("calibrate-gate")(calibrate_gate)
app.command("prompts")(prompts)
app.command("app")(serve)
app.command("demo")(demo)

if __name__ == "__main__":
    app()
