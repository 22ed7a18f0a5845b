"""`python -m equilog`: the command line, for launchers that start a module."""

from equilog.cli import main

if __name__ == "__main__":
    main()
