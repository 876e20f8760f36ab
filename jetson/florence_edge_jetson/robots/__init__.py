"""Robots: camera topics of ROS 2, live (`ros`) and recorded (`bag`), without ROS installed."""
