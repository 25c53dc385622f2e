from .langgraph_server import create_served_graph as create_served_graph
from .lazy_classifier import LazyClassifier as LazyClassifier
from .mcp_server import create_mcp_server as create_mcp_server
from .mcp_server import serve as serve
