"""florence-bag: recorded camera topics, answered offline, without ROS installed."""
