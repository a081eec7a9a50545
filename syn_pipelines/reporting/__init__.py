"""The workings of report.py: what a run holds is counted here, drawn, and written as one page."""
