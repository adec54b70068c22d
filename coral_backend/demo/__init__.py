"""How does CORAL look at work? ``coral demo``: every part started on this machine, a corpus labelled in Label Studio."""
