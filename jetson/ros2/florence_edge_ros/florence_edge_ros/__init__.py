"""Florence-2 as a ROS 2 node."""
