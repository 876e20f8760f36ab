"""Power and energy: sensors, tegrastats and NVML behind one meter, and joules per answer."""
