"""Dashboards, rules and alerts of the mesh, as code."""
