"""Tables of many runs: filtered, grouped over seeds, with intervals, compared; printed and written."""
