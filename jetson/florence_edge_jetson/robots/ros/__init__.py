"""ROS 2 messages and a watcher of camera topics; rclpy itself is in jetson/ros2 alone."""
