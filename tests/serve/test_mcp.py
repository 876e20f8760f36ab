"""The MCP server, asked by an MCP client over stdio as an assistant would."""

import asyncio
import base64
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from florence_edge import Florence2

from .serving import picture

PICTURE = picture(5)


async def _calls(server: Any, calls: list[tuple[str, dict[str, Any]]]) -> tuple[Any, list[Any]]:
    from mcp.client import Client

    async with Client(server) as client:
        tools = await client.list_tools()
        return tools, [await client.call_tool(name, given) for name, given in calls]


@pytest.mark.slow
def test_the_command_speaks_over_stdio_and_says_nothing_else_there(tiny_bundle: Path) -> None:
    mcp = pytest.importorskip("mcp")
    arguments = ["-m", "florence_edge_serve", str(tiny_bundle), "--mcp"]
    command = mcp.StdioServerParameters(command=sys.executable, args=arguments)
    calls = [("describe", {"picture": "gone.png"})]
    tools, (reply,) = asyncio.run(_calls(command, calls))
    assert len(tools.tools) == 8
    assert "There is no file gone.png" in reply.content[0].text


def test_an_assistant_sees_with_the_tools(tiny_model: Florence2, tmp_path: Path) -> None:
    pytest.importorskip("mcp.server.mcpserver")
    from florence_edge_serve.mcp import create_server

    path = tmp_path / "street.png"
    path.write_bytes(PICTURE)
    encoded = base64.b64encode(PICTURE).decode()
    region = [5, 6, 40, 30]
    tools, replies = asyncio.run(
        _calls(
            create_server(tiny_model),
            [
                ("describe", {"picture": str(path), "detail": "sentence"}),
                ("find_objects", {"picture": encoded}),
                ("find_objects", {"picture": str(path), "names": ["car", "dog"]}),
                ("read_text", {"picture": str(path), "region": region}),
                ("show_objects", {"picture": str(path)}),
                ("describe", {"picture": str(tmp_path / "gone.png")}),
                ("outline", {"picture": str(path)}),
                ("read_text", {"picture": str(path), "region": [5, 6, 400, 30]}),
            ],
        )
    )
    assert {tool.name for tool in tools.tools} >= {"describe", "find_objects", "read_text"}
    assert all(tool.description and tool.annotations.read_only_hint for tool in tools.tools)
    caption, objects, named, text, shown, gone, neither, outside = replies
    assert caption.structured_content["text"] == tiny_model.run(PICTURE, "CAPTION").text
    for reply, task, names in (
        (objects, "OD", None),
        (named, "OPEN_VOCABULARY_DETECTION", "car<and>dog"),
    ):
        expected = [list(map(round, r.box)) for r in tiny_model.run(PICTURE, task, names).regions]
        assert [each["box"] for each in reply.structured_content["found"]] == expected
    read = tiny_model.run(PICTURE, "REGION_TO_OCR", region=region)
    assert text.structured_content["text"] == read.text
    assert Image.open(io.BytesIO(base64.b64decode(shown.content[0].data))).size == (60, 50)
    for reply, says in (
        (gone, "There is no file"),
        (neither, "one of the two"),
        (outside, "leaves the picture"),
    ):
        assert reply.is_error
        assert says in reply.content[0].text
