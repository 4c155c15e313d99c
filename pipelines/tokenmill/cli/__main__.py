"""`python -m tokenmill.cli`."""

from tokenmill.cli.main import main

main()
