"""The subcommands of florence-bench: each declares its arguments and runs, giving what to print."""
