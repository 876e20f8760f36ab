"""The subcommands of florence-bench: each says its arguments and runs, giving what to print."""
