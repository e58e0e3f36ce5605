"""People compare two answers in a browser: what they say is stored, counted, given and taken; needs no torch."""
