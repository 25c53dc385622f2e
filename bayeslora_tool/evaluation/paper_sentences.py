"""The five sentences of Table 1 in the BayesLoRA paper (arXiv 2506.22809)."""

TABLE_1 = (
    "This movie was fantastic!",
    "The plot was hard to follow.",
    "I've seen better films",
    "The quarterly earnings exceeded expectations.",
    "florgle wumpus theory extrapolates",
)
"""In the order of the table."""
