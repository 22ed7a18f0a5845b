"""What every loss promises, declared once in `cases` and checked against formulas in many digits."""
