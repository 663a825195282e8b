"""What tests between real processes need: nodes, an HTTP server that can misbehave, a slow proxy.

Plain helpers, no fixtures; tests/system/conftest.py makes fixtures of them.
"""
