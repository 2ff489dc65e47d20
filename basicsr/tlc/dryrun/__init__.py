"""The dry run: a net on PyTorch's meta device, where operations have shapes and no values.

`convert` enters by `probe`, which finds out which modules see maps of which size and what looks at the whole map, and by
`misfits`, which finds out whether the net takes local layers. Nothing here changes a net for good.
"""
