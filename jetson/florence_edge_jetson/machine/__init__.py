"""The facts of a machine, read from its files: board, JetPack, memory, temperatures, clocks."""
