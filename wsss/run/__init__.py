"""Running a method: its plan, its steps, each done once, and what is drawn of them.

The package can be called: `wsss.run(...)` is `wsss.api.run`.
"""
