"""From a checkpoint's tensors to a folder of ours: key maps, conversion, verification, export."""
