"""ROS 2 without ROS: pictures in, answers out, and a watcher that a node only has to wrap."""
