"""The package as ament builds it."""

# mypy: disable-error-code="import-untyped"

from setuptools import setup

PACKAGE = "florence_edge_ros"

setup(
    name=PACKAGE,
    version="0.1.0",
    packages=[PACKAGE],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", ["launch/florence_edge.launch.py"]),
        (f"share/{PACKAGE}/config", ["config/florence_edge.yaml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    license="MIT",
    description="Florence-2 on a camera topic: a lifecycle node over florence-edge.",
    entry_points={"console_scripts": [f"florence_edge = {PACKAGE}.node:main"]},
)
