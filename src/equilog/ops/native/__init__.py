"""The same sums by C++ on the CPU: float32, each number read once a direction, built where there is a compiler."""
