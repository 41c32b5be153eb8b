"""Makes `python -m distillgen` the same as `distillgen`."""

from distillgen.cli.main import main

main()
