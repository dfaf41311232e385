"""The quality gate: may a restored image replace its input?"""
