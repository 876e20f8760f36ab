"""int8 bundles: quantize, save and judge in one loop, the gate, and what is written down."""
