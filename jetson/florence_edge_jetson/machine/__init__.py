"""What a machine says about itself: board, JetPack, memory, temperatures, clocks."""
