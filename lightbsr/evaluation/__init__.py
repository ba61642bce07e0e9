"""Scores under the papers' test protocols, beside the papers' figures, and how well IDRs tell degradations apart."""
