"""The report of runs: one page of HTML that needs nothing but a browser."""
