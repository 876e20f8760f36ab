"""Start the node, and bring it to active as soon as it is configured.

ros2 launch florence_edge_ros florence_edge.launch.py image:=/camera/image config:=/my/config.yaml
"""

# mypy: disable-error-code="import-not-found"

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition


def generate_launch_description() -> LaunchDescription:
    """The node, and the two transitions."""
    config = Path(get_package_share_directory("florence_edge_ros"), "config", "florence_edge.yaml")
    node = LifecycleNode(
        package="florence_edge_ros",
        executable="florence_edge",
        name="florence_edge",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("config")],
        remappings=[("image", LaunchConfiguration("image"))],
        output="screen",
    )

    def change(transition: int) -> EmitEvent:
        return EmitEvent(
            event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)
        )

    activate = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[change(Transition.TRANSITION_ACTIVATE)],
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("image", default_value="/camera/image"),
            DeclareLaunchArgument("config", default_value=str(config)),
            DeclareLaunchArgument("namespace", default_value=""),
            node,
            RegisterEventHandler(activate),
            change(Transition.TRANSITION_CONFIGURE),
        ]
    )
