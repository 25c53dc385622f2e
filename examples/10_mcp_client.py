"""Use the classifier from another program, through the Model Context Protocol.

    python examples/10_mcp_client.py

Needs the [mcp] extra. Starts `bayeslora serve-mcp` as a subprocess; any MCP client can, with
{"mcpServers": {"bayeslora": {"command": "bayeslora", "args": ["serve-mcp"]}}}.
"""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

SERVER = StdioServerParameters(
    command=sys.executable,
    args=["-m", "bayeslora_tool", "serve-mcp", "--preset", "intents"],
    env=dict(os.environ),  # a client passes on next to nothing unless told to
)


async def main() -> None:
    async with stdio_client(SERVER) as streams, ClientSession(*streams) as session:
        await session.initialize()
        (tool,) = (await session.list_tools()).tools
        print(f"{tool.name}: {tool.description.split('.')[0]}.")
        for text in ("where is my order, has it shipped yet", "florgle wumpus zabble"):
            result = await session.call_tool(tool.name, {"text": text})
            print(f"\n{text!r}")
            print(json.dumps(result.structuredContent, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
