"""Other libraries' metrics as judges, and judges as other libraries' metrics and losses."""
