"""``lightbsr benchmark``: the papers' tables and figures, each score with its protocol's name beside it."""
