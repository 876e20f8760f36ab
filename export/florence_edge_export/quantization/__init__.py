"""int8 and int4 bundles: quantize, save and judge in one loop, the gate, and the report."""
