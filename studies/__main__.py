"""Run the command line as ``python -m bitfront.studies``."""

from .cli import main

if __name__ == "__main__":
    main()
