"""Write a table to try `equilog compare` on: 3,000 made-up support tickets, of which one in a hundred is legal.

    python examples/make_tickets.py tickets.csv
    equilog compare tickets.csv --target team

It has what real tables have: free text, categories, a date, numbers, missing cells, an identifier and a constant
column. The words of a team's tickets overlap with those of the others, so that no model can be always right.
"""

import sys

import numpy as np
import pandas as pd

ROWS = 3000
SHARE = {"billing": 0.60, "technical": 0.25, "account": 0.10, "refund": 0.04, "legal": 0.01}
WORDS = {
    "billing": "invoice charge amount card month payment twice plan",
    "technical": "error crash screen update slow app loading login",
    "account": "password login email profile name change access plan",
    "refund": "refund money back charge cancel amount order twice",
    "legal": "contract privacy data lawyer terms delete refund notice",
}
COMMON = "please help me with the my i cannot since today again thanks it is not"


def tickets(rows: int, seed: int = 0) -> pd.DataFrame:
    """Return the tickets, a row each."""
    rng = np.random.default_rng(seed)
    team = rng.choice(list(SHARE), rows, p=list(SHARE.values()))

    def text(name: str) -> str:
        told = rng.choice(WORDS[name].split(), rng.integers(0, 4))
        stray = rng.choice(" ".join(WORDS.values()).split(), rng.integers(0, 3))
        words = np.concatenate([told, stray, rng.choice(COMMON.split(), rng.integers(2, 6))])
        return " ".join(rng.permutation(words))

    premium = rng.random(rows) < np.where(team == "legal", 0.6, 0.2)
    table = pd.DataFrame(
        {
            "ticket": [f"T{number:05d}" for number in range(rows)],
            "opened": pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 200, rows), unit="D"),
            "message": [text(name) for name in team],
            "channel": rng.choice(["mail", "chat", "phone"], rows, p=[0.5, 0.35, 0.15]),
            "plan": np.where(premium, "premium", "basic"),
            "age_of_account": rng.gamma(2.0, np.where(team == "account", 60.0, 200.0)).round(1),
            "currency": "EUR",
            "team": team,
        }
    )
    for column, missing in (("channel", 0.05), ("age_of_account", 0.15), ("message", 0.02)):
        table.loc[rng.random(rows) < missing, column] = None
    return table


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else "tickets.csv"
    tickets(ROWS).to_csv(path, index=False)
    print(f"wrote {path}: {ROWS} rows")
