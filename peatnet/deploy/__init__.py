"""What a node has, and how a model on its disk is put into service there.

Hardware, the headers of model files, loaders, activation and rollback. Knows of processes and of this machine; of
other machines only what `net` tells.
"""
