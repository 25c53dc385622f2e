"""LangGraph state machines around an uncertain classifier. Nothing here imports torch."""
