"""The Python agent. Every isolate imports `function` and what it needs, so these modules import little."""
