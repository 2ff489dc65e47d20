"""Global operations that a module's own forward performs, made local by rewriting that forward.

`convert` enters by `forwards`: it traces a forward (`trace`), looks for operations with a local form (`patterns`), rewrites the
graph (`rewrite`) and keeps what is `exact`. A new way to write an operation goes into `patterns`, one file a family.
"""
