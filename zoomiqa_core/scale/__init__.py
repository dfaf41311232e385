"""Judging on more than one machine with Ray Data: sources, batch classes, results that resume."""
