"""The one reader of runs: queries, tidy frames, and single runs that others build on."""
