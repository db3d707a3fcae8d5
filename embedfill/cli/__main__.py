"""`python -m embedfill.cli`: the command line without its console script."""

from embedfill.cli.main import main

if __name__ == "__main__":
    main()
