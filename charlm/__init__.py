"""Character-level language models in TensorFlow 2.

The public names are loaded on first use, so that importing charlm is instant.
`__init__.pyi` declares them for type checkers.
"""

import importlib
import os
import sys
from typing import Any

# XLA reads this on its first compilation. By default it uses 256-bit vectors,
# even on CPUs with AVX-512.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_prefer_vector_width=512")
os.environ["KERAS_BACKEND"] = "tensorflow"  # before Keras is imported
# Hides TensorFlow's log: errors are also raised. Read when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_MODULE_OF = {
  "load": "loaded",
  "LoadedModel": "loaded",
  "train": "training.start",
  "RecurrentLayer": "model.layers",
  "LanguageModel": "model.language_model",
  "Config": "config",
  "InputError": "errors",
  "load_texts": "data.split",
  "load_lines": "data.corpus",
  "build_vocabulary": "data.vocabulary",
  "line_to_tensor": "data.tensors",
  "text_from_ids": "data.tensors",
  "create_batch_dataset": "data.tensors",
  "split_input_target": "data.batches",
  "GRULM": "model.language_model",
  "compile_model": "training.optimizer",
  "log_perplexity": "evaluation.score",
  "GenerativeModel": "sampling.generator",
  "temperature_random_sampling": "sampling.gumbel",
}

__all__ = list(_MODULE_OF)


def __dir__() -> list[str]:
  return __all__


def __getattr__(name: str) -> Any:
  # `from charlm import data` needs this error to import the submodule.
  if name not in _MODULE_OF:
    raise AttributeError(f"module 'charlm' has no attribute {name!r}")
  module = f"charlm.{_MODULE_OF[name]}"
  if module not in sys.modules:
    # Freezing would also exempt a notebook's own objects from collection.
    process = importlib.import_module("charlm.system.process")
    process.import_quietly(module, keep=False)
  return getattr(sys.modules[module], name)
