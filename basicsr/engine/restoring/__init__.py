"""Restoring photographs: `run_demo` plans and writes, `safety` looks at what came out, `panels` draws pictures side by side."""
