"""Character-level GRU language models in TensorFlow 2.

The public names, loaded on first use so that importing charlm is instant.
"""

import importlib
from typing import Any

_MODULE_OF = {
  "Config": "config",
  "InputError": "config",
  "load_lines": "corpus",
  "build_vocabulary": "vocabulary",
  "line_to_tensor": "vocabulary",
  "text_from_ids": "vocabulary",
  "create_batch_dataset": "dataset",
  "split_input_target": "dataset",
  "GRULM": "model",
  "compile_model": "optimizer",
  "log_perplexity": "evaluation",
  "GenerativeModel": "sampling",
  "temperature_random_sampling": "sampling",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
  if name not in _MODULE_OF:
    raise AttributeError(f"module 'charlm' has no attribute {name!r}")
  module = importlib.import_module(f"charlm.{_MODULE_OF[name]}")
  return getattr(module, name)
