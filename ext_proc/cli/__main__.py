"""`python -m ext_proc.cli` is `douane`."""

from ext_proc.cli.root import main

if __name__ == "__main__":
    main()
