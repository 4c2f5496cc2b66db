"""Read by Python when it starts, where this folder is on PYTHONPATH: puts the stand-in for Core ML into a child."""

import coreml_standin

coreml_standin.install()
